import pytest
import yaml

from mmlight import yaml_text

TEXTS = ["off", "no", "1e3", "12e4", "null", "~", "[a]", "{a: 1}", "# x", "a: b", "2024-01-01", "="]


def test_what_is_quoted_is_text_and_stays_it_over_files_and_readers():
    value = yaml_text.load("\n".join(f"- '{text}'" for text in TEXTS))
    assert value == TEXTS
    assert yaml_text.load(yaml_text.dump_layer(value)) == TEXTS
    assert yaml.safe_load(yaml_text.dump(value)) == TEXTS
    assert yaml.safe_load(yaml.safe_dump(value)) == TEXTS
    assert [type(text) for text in yaml_text.plain(value)] == [str] * len(TEXTS)


@pytest.mark.parametrize("text", ["off", "No", "yes", "12:30:00", "2024-01-01", "007", "a b"])
def test_words_times_and_dates_are_texts_without_quotation_marks(text):
    value = yaml_text.load(f"- {text}\n")
    assert value == [text]
    assert yaml_text.dump_layer(value) == f"- {text}\n", "what may be a switch stays unquoted"
    assert yaml_text.load(yaml_text.dump(value)) == value


def test_numbers_and_switches_are_what_they_look_like():
    text = "[1, -2, 1e-3, 1.5, .5, 1_000, 0x10, true, False, null, ~, .inf]"
    inf = float("inf")
    assert yaml_text.load(text) == [1, -2, 1e-3, 1.5, 0.5, 1000, 16, True, False, None, None, inf]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 1 too"),
        ("x:\n  a: 1\n  a: 2\n", "line 2 too"),
        ("- {a: 1, a: 2}\n", "`a` comes twice;"),
        ("a: {b: 1}\n'a': {c: 1}\n", "line 1 too"),
    ],
)
def test_a_key_that_comes_twice_is_refused(text, lines):
    with pytest.raises(yaml.MarkedYAMLError) as error:
        yaml_text.load(text)
    assert lines in error.value.problem


def test_a_key_may_replace_one_that_is_merged():
    assert yaml_text.load("x: &x {a: 1, b: 2}\ny: {<<: *x, a: 3}\nz: {<<: *x}\n") == {
        "x": {"a": 1, "b": 2},
        "y": {"a": 3, "b": 2},
        "z": {"a": 1, "b": 2},
    }


@pytest.mark.parametrize(
    "text",
    ["# monday", "&x", "*x", "~", "- one", "note: call me", "'x'", "%", "{cat}", " x ", "@a"],
)
def test_the_parser_takes_texts_as_they_are(text):
    assert yaml_text.parse_value(text) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[a, 1e-3]", ["a", 1e-3]),
        ('["\\ud83d\\ude00"]', ["😀"]),
        ("{a: off}", {"a": "off"}),
        ("a: 1\n", {"a": 1}),
        ("no", False),
        ("1e-3", 1e-3),
    ],
)
def test_the_parser_still_reads_lists_mappings_and_simple_values(text, value):
    assert yaml_text.parse_value(text) == value


def test_a_name_that_is_not_utf8_does_not_keep_a_configuration_from_being_written():
    assert yaml.safe_load(yaml_text.dump({"a": "na\udcefve.png"}))["a"].startswith("na")
