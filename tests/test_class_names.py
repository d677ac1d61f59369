"""Classes are numbers; names are looked up and shown."""

import logging

import pytest

from mmlight.class_names import (
    NoClassError,
    class_number,
    class_numbers,
    given_names,
    read_names,
    shown_names,
)
from mmlight.errors import UserError

NAMES = ["cat", "crane", "dog", "crane"]


@pytest.mark.parametrize(
    ("label", "number"),
    [(2, 2), (2.0, 2), ("2", 2), (" 2\n", 2), ("2.0", 2), ("+2", 2), ("dog", 2), ("dog\n", 2)],
)
def test_a_class_goes_by_number_or_name(label, number):
    assert class_number(label, NAMES) == number


@pytest.mark.parametrize(
    "label", [1.5, True, -1, float("nan"), float("inf"), [1], {}, 10**30, b"1"]
)
@pytest.mark.parametrize("names", [NAMES, None])
def test_what_is_no_label_is_told(label, names):
    with pytest.raises(ValueError, match="neither a class number nor a name"):
        class_number(label, names)


@pytest.mark.parametrize("text", ["-3", "1.5", "n/a", "", "nan", "1_0", "\u0667", "1e3", "1" * 30])
def test_a_text_that_names_no_class_is_told(text):
    with pytest.raises(NoClassError, match="is not in data\\.class_names"):
        class_number(text, NAMES)
    with pytest.raises(NoClassError, match="give data\\.class_names"):
        class_number(text, None)


def test_a_name_of_two_classes_asks_for_the_number():
    with pytest.raises(UserError, match="'crane' is the name of classes 1 and 3; give the number"):
        class_number("crane", NAMES)
    assert class_number(1, NAMES) == 1 and class_number(3, NAMES) == 3


def test_a_number_beyond_the_names_is_told():
    with pytest.raises(UserError, match="label 4, but there are only 4 class names"):
        class_number(4, NAMES)
    assert class_number(4, None) == class_number(4, []) == 4


def test_a_text_that_is_a_name_counts_as_that():
    assert class_number("1", ["1", "2"]) == 0
    assert class_number(1, ["1", "2"]) == 1


@pytest.mark.parametrize(
    ("labels", "numbers"),
    [
        ([0, "dog"], [0, 2]),
        ("dog", [2]),
        ("cat,dog", [0, 2]),
        ("cat; 3 | dog\n", [0, 3, 2]),
        ("cat\r\ndog\r\n", [0, 2]),
        ("0,2", [0, 2]),
        (2, [2]),
        ([], []),
        ("", []),
        (" \n", []),
    ],
)
def test_several_labels_stand_in_a_list_or_a_text(labels, numbers):
    assert class_numbers(labels, NAMES) == numbers


def test_names_may_hold_what_stands_between_labels():
    names = ["tench, Tinca tinca", "tench", "a;b", "cat"]
    assert class_numbers("tench, Tinca tinca, cat", names) == [0, 3]
    assert class_numbers("tench, cat", names) == [1, 3]
    assert class_numbers("cat;a;b", names) == [3, 2]
    with pytest.raises(NoClassError, match="'Tinca'"):
        class_numbers("tench, Tinca", names)


def test_captions_of_classes_are_all_different():
    assert shown_names(["a", "b"]) == ["a", "b"]
    assert shown_names(NAMES) == ["cat", "crane (1)", "dog", "crane (3)"]
    odd = shown_names(["a", "a", "a (0)", "a"])
    assert len(set(odd)) == 4 and odd[1] == "a (1)"
    assert shown_names([]) == []


def test_class_names_are_lines_as_editors_count_them(tmp_path, caplog):
    path = tmp_path / "names.txt"
    path.write_bytes("\ufeffcat\r\nbig\u2028dog\r\n owl \r\n\r\n".encode())
    with caplog.at_level(logging.WARNING):
        assert read_names(str(path)) == ["cat", "big\u2028dog", "owl"]
    assert not caplog.records


def test_class_names_in_a_list_are_no_blanks():
    assert given_names([" cat", "dog\n"]) == ["cat", "dog"]
    assert given_names(None) == given_names([]) == []
    with pytest.raises(UserError, match="the name of class 1 is blank"):
        given_names(["cat", " "])


def test_a_blank_line_between_class_names_is_told(tmp_path, caplog):
    path = tmp_path / "names.txt"
    path.write_text("cat\n\nowl\n")
    with caplog.at_level(logging.WARNING):
        assert read_names(str(path)) == ["cat", "owl"]
    assert "line 2" in caplog.text and "class 1 is 'owl'" in caplog.text
