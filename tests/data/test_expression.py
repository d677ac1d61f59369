import json

import pytest
from shard_files import png, sound, write_tar

from mmlight.data.curation.expression import Expression
from mmlight.data.curation.known import Known
from mmlight.data.members import Contents
from mmlight.data.shards.corpus import Corpus
from mmlight.data.shards.index import load_or_build
from mmlight.errors import UserError

META = {"a": {"b": 3, "c": "Yes"}, "similarity": 0.25, "ok": True, "tags": ["x", "y"]}
META |= {"my-key": {"of it": 2}, "mixed": [1, "x"]}


@pytest.fixture
def corpus(tmp_path):
    path = write_tar(
        tmp_path / "s.tar",
        [
            ("dir/k1.png", png(30, 20)),
            ("dir/k1.txt", b"A red circle\n"),
            ("dir/k1.json", json.dumps(META).encode()),
            ("k2.flac", sound(1.5)),
            ("k2.cls", b"7"),
            ("k2.meta.json", b'{"deep": {"er": "7"}}'),
        ],
    )
    return Corpus(load_or_build([path]))


def ask(text, corpus, number=0):
    expression = Expression(text, corpus)
    contents = Contents(corpus.read(number, expression.extensions))
    return expression.value(Known(corpus, number, contents))


@pytest.mark.parametrize(
    "text",
    [
        "similarity > 0.2",
        "json:a.b == 3 and json.a.b == 3 and a.b == 3",
        "json['my-key']['of it'] == 2 and json['a'].b == 3 and 'x' in mixed",
        "round(similarity * 100, -1) == 20 and round(height / 3, 1) == 6.7",
        "width == 30 and height == 20 and width / height > 1.4",
        "20 <= height <= 20",
        "key == 'dir/k1' and shard == 's.tar' and startswith(key, 'dir/')",
        "duration is None",
        "len(txt) == 12 and words(txt) == 3 and lower(txt) == 'a red circle'",
        "'red' in txt and 'blue' not in txt",
        "a.c in ['Yes', 'No']",
        "'x' in tags and len(tags) == 2",
        "ok and not (similarity > 0.3)",
        "has('png', 'txt') and not has('flac') and size('png') > 100 and size('flac') is None",
        "bytes >= size('png') + size('txt')",
        "-similarity < 0 and similarity * 4 == 1 and 7 // 2 == 3 and 7 % 4 == 3",
        "not (nothing > 1) and not (nothing <= 1) and nothing is None and nothing == None",
        "1 / 0 is None",
        "'json:a.b' == 'json:' + 'a.b'",
        "max(width, height) == 30 and round(similarity * 10) in (2, 3)",
    ],
)
def test_conditions_that_hold(corpus, text):
    assert ask(text, corpus) is True


def test_members_of_other_names(corpus):
    assert ask("meta.json:deep.er == '7' and number(meta.json:deep.er) == 7", corpus, 1) is True
    assert ask("duration == 1.5 and width is None", corpus, 1) is True
    assert ask("similarity > 0.2 or has('flac')", corpus, 1) is True
    assert Expression("width > 3 and has('txt')", corpus).extensions == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("similarity >", "invalid syntax"),
        ("", "invalid syntax"),
        ("(" * 300, "expression"),
        ("a" * 10_001, "too long"),
        ("__import__('os').system('true')", "is no"),
        ("().__class__", "before a dot"),
        ("txt.upper()", "is not allowed"),
        ("open('x')", "no function of ours"),
        ("lne(txt)", "did you mean 'len'"),
        ("[x for x in txt]", "is not allowed"),
        ("lambda: 1", "is not allowed"),
        ("(y := 3)", "is not allowed"),
        ("9 ** 9 ** 9", "is not allowed"),
        ("f'{key}'", "is not allowed"),
        ("min(width, key=len)", "is not allowed"),
        ("txt[0]", "is not allowed"),
        ("png == 3", r'size\("png"\)'),
        ("json == 3", "no text and no number"),
        ("size(key)", "names a member"),
        ("size()", "names a member"),
        ("1" + "+1" * 900 + " > width", "parts inside parts"),
        ("9" * 400 + " > width", "too large a number"),
    ],
)
def test_expressions_that_are_refused_before_any_sample_is_read(corpus, text, message):
    with pytest.raises(UserError, match=message) as error:
        Expression(text, corpus)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("txt > 3", r"number\(\.\.\.\)"),
        ("similarity", "neither true nor false"),
        ("len(similarity) > 2", "len"),
        ("'x' * 1000000000 == 'y'", "is no number"),
        ("lower(similarity) == 'x'", "no text"),
        ("round(width, -999999999) > 1", "15 digits at most"),
        (f"{'9' * 300} * {'9' * 300} > 1", "too large a number"),
        ("txt == 3", r"number\(\.\.\.\)"),
        ("txt != 3", r"number\(\.\.\.\)"),
        ("txt in [1, 2]", r"number\(\.\.\.\)"),
        ("similarity not in ['a']", r"number\(\.\.\.\)"),
    ],
)
def test_what_cannot_be_asked_of_a_sample_names_it(corpus, text, message):
    expression = Expression(text, corpus)
    with pytest.raises(UserError, match=message) as error:
        expression.holds(Known(corpus, 0, Contents(corpus.read(0, expression.extensions))))
    assert "dir/k1" in str(error.value) and "\n" not in str(error.value)


def test_names_behind_what_is_false_already_and_those_that_are_null_are_known(tmp_path):
    path = write_tar(tmp_path / "0.tar", [("0.json", b'{"a": {"b": null}, "c.d": null}')])
    corpus = Corpus(load_or_build([path]))
    known = Known(corpus, 0, Contents(corpus.read(0, ["json"])))
    for text in ("width > 9 and a.b is None", "a.b is None", "json:c.d is None"):
        expression = Expression(text, corpus)
        expression.holds(known)
        expression.check_names()
    expression = Expression("a.c is None", corpus)
    assert expression.holds(known)
    with pytest.raises(UserError, match=r"no sample has 'json:a\.c'"):
        expression.check_names()


def test_a_name_that_no_sample_knows_is_a_mistake(corpus):
    expression = Expression("widthh > 3 or similarity > 9", corpus)
    for number in range(2):
        expression.holds(Known(corpus, number, Contents(corpus.read(number, ["json"]))))
    with pytest.raises(UserError, match="no sample has 'json:widthh'"):
        expression.check_names()
