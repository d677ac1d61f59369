import json

import pytest

from mmlight.data.checks import check_members
from mmlight.data.members import Contents, Members, label_value, parse_source
from mmlight.errors import UserError


class Extensions:
    """A corpus of one sample that has members of these extensions."""

    def __init__(self, *names):
        self.names = names

    def extensions(self):
        return dict.fromkeys(self.names, 1)


def contents(**raw) -> Contents:
    return Contents(
        {k: v if isinstance(v, bytes) else json.dumps(v).encode() for k, v in raw.items()}
    )


def test_img2dataset_layout_reads_as_it_is():
    members = Members(image=["jpg", "png"], text="txt", fields={"url": "json:url"})
    sample = contents(jpg=b"\xff", txt=b"a cat\n", json={"url": "x"})
    assert members.modalities() == ("image", "text")
    assert sample.captions(members) == [("a cat", 1.0)]
    assert sample.value("json:url") == "x"
    assert set(members.extensions()) == {"jpg", "png", "txt", "json"}


def test_clip_benchmark_lines_are_captions():
    members = Members(text="txt", text_lines=True)
    captions = contents(txt=b"one\r\ntwo\n\n  \nthree").captions(members)
    assert [text for text, _ in captions] == ["one", "two", "three"]
    assert sum(weight for _, weight in captions) == pytest.approx(1)


def test_without_text_lines_a_member_is_one_caption():
    assert contents(txt=b"one\ntwo\n").captions(Members(text="txt")) == [("one\ntwo", 1.0)]


def test_a_list_takes_the_first_member_that_the_sample_has():
    members = Members(text=["json:alt", "txt"], image=["png", "jpg"])
    assert contents(txt=b"t", json={"alt": "a"}).captions(members) == [("a", 1.0)]
    assert contents(txt=b"t", json={}).captions(members) == [("t", 1.0)]
    assert contents(jpg=b"", txt=b"").first(members.image) == "jpg"


def test_json_list_holds_several_captions_of_equal_weight():
    sample = contents(json={"captions": ["a", None, " ", "b"]})
    assert sample.captions(Members(text="json:captions")) == [("a", 0.5), ("b", 0.5)]


def test_weights_hold_over_the_sources_that_are_there():
    members = Members(text={"txt": 0.75, "json:alt": 0.25})
    assert contents(txt=b"t", json={"alt": "a"}).captions(members) == [("t", 0.75), ("a", 0.25)]
    assert contents(json={"alt": ["a", "b"]}).captions(members) == [("a", 0.125), ("b", 0.125)]
    assert contents(jpg=b"").captions(members) == []


def test_dots_go_deeper_into_json_unless_a_key_has_them():
    sample = contents(json={"meta": {"a": 1}, "x.y": 2})
    assert sample.value("json:meta.a") == 1
    assert sample.value("json:x.y") == 2
    assert sample.value("json:meta.b.c") is None


def test_half_a_surrogate_pair_is_replaced():
    sample = Contents({"json": b'{"c": "a\\ud83d"}'})
    assert sample.captions(Members(text="json:c")) == [("a?", 1.0)]


@pytest.mark.parametrize("raw", [b"\xff\xff", b"{"])
def test_broken_text_and_json_raise(raw):
    with pytest.raises(ValueError):
        Contents({"txt": b"\xff\xff"}).captions(Members(text="txt"))
    with pytest.raises(ValueError):
        Contents({"json": raw}).captions(Members(text="json:c"))
    with pytest.raises(ValueError, match="not a caption"):
        contents(json={"c": 3}).captions(Members(text="json:c"))


def test_json_tells_numbers_from_names_and_a_text_does_not():
    given = Contents({"cls": b"7\n", "json": b'{"a": 7, "b": "7", "c": null}'})
    assert label_value(given, "cls") == 7
    assert [label_value(given, f"json:{key}") for key in "abcd"] == [7, "7", None, None]
    assert label_value(Contents({"cls": b"cat\n"}), "cls") == "cat\n"
    assert label_value(Contents({"x": b"3"}), "x") == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image": "json:image"}, "plain extension"),
        ({"text": "*.txt"}, r"members.text: '\*.txt' is a pattern, which only images have"),
        ({"text": {"*.txt": 1.0}}, "is a pattern"),
        ({"fields": {"x": "*.json"}}, "is a pattern"),
        ({"image": []}, "members.image is empty"),
        ({"text": {"txt": 0.0}}, "above 0"),
        ({"text_lines": True}, "no effect without members.text"),
        ({"text_words": True}, "text_words has no effect without members.text"),
        ({"text": "txt", "text_lines": True, "text_words": True}, "exclude each other"),
        ({"text": "txt:caption"}, "not JSON"),
        ({"text": "json:"}, "not a member"),
        ({"class_captions": ["a {}"]}, "needs members.label"),
        ({"class_captions": ["a {}"], "label": "cls", "text": "txt"}, "excludes text"),
        ({"class_captions": ["a photo"], "label": "cls"}, "with {}"),
    ],
)
def test_contradictions_are_one_line_errors(settings, message):
    with pytest.raises(UserError, match=message) as caught:
        Members(**settings)
    assert "\n" not in str(caught.value)


def test_a_member_nobody_has_names_those_there_and_the_nearest():
    with pytest.raises(UserError, match=r"'jpeg'.*it has jpg, txt.*did you mean 'jpg'"):
        check_members(Extensions("jpg", "txt"), Members(image="jpeg"), where="data.train")
    check_members(Extensions("jpg"), Members(image=["jpeg", "jpg"]), where="data.train")


def test_every_source_with_a_weight_must_exist():
    with pytest.raises(UserError, match=r"text\.json"):
        check_members(Extensions("txt"), Members(text={"txt": 1, "json:a": 1}), where="data.train")


def test_extensions_are_compared_in_lower_case():
    assert parse_source(".JPG") == ("jpg", None)


def test_a_list_of_words_is_one_text():
    members = Members(text="json:w", text_words=True)
    assert contents(json={"w": ["a", "b c", ""]}).captions(members) == [("a b c ", 1.0)]
    assert contents(json={"w": "as it is"}).captions(members) == [("as it is", 1.0)]
    for empty in ([], [" "], None):
        assert contents(json={"w": empty}).captions(members) == []
    with pytest.raises(ValueError, match="json:w holds a float, not a word"):
        contents(json={"w": ["a", 3.5]}).captions(members)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_part_of_a_member(encoding):
    contents = Contents({"txt": "röt\n".encode(encoding), "cls": "1\n".encode(encoding)})
    assert contents.captions(Members(text="txt")) == [("röt", 1.0)]
    assert label_value(contents, "cls") == 1
    inside = Contents({"json": b'{"c": "\xef\xbb\xbfred"}'})
    assert inside.captions(Members(text="json:c")) == [("red", 1.0)]


def test_joined_words_keep_newlines_and_lines_end_at_newlines_only():
    words = Contents({"json": json.dumps({"w": ["\n", "John", "said", "\n"]}).encode()})
    members = Members(text="json:w", text_words=True)
    assert words.captions(members) == [("\n John said \n", 1.0)]
    lines = Contents({"txt": "a\u2028b\x0bc\r\nd\n".encode()})
    assert [c for c, _ in lines.captions(Members(text="txt", text_lines=True))] == [
        "a\u2028b\x0bc",
        "d",
    ]


def test_a_key_that_comes_twice_in_json_is_no_value():
    with pytest.raises(ValueError, match="'a' comes twice"):
        Contents({"json": b'{"a": 1, "b": 2, "a": 3}'}).value("json:a")


def test_a_caption_that_is_no_number_is_missing():
    sample = Contents({"json": b'{"a": NaN, "b": ["x", NaN]}'})
    assert sample.captions(Members(text="json:a")) == []
    assert sample.captions(Members(text="json:b")) == [("x", 1.0)]
