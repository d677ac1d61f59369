import pytest

from mmlight.errors import UserError
from mmlight.runs.direction import chosen_direction, direction, known_direction


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("val/loss", "min"),
        ("val/image_to_text/median_rank", "min"),
        ("val/image_to_text/recall_at_1", "max"),
        ("val/image_to_text/mean_reciprocal_rank", "max"),
        ("val/zero_shot/image_accuracy_at_1", "max"),
        ("val/wer", "min"),
        ("test/cer", "min"),
        ("val/wer_insertions", "min"),
        ("val/calibration_error", "min"),
        ("train/loss/image-text", "min"),
        ("val/class/loss of rank/ap50", "max"),
        ("val/glossary_accuracy", "max"),
        ("val/lower_certainty", None),
        ("val/words", None),
        ("train/loss_ms", None),
    ],
)
def test_direction_of_a_metric(name, expected):
    assert known_direction(name) == expected
    assert direction(name) == (expected or "max")


def test_for_an_unknown_metric_the_run_that_monitors_it_tells():
    assert direction("val/words", told=[(None, None), ("val/words", "min")]) == "min"
    assert direction("val/words", told=[("val/wer", "min")]) == "max"
    # what every run wrote before its mode was told by the name
    assert direction("val/loss", told=[("val/loss", "max")]) == "min"


def test_what_is_chosen_by_an_unknown_metric_must_be_told():
    assert chosen_direction("val/loss", remedy="") == "min"
    assert chosen_direction("val/words", given="min", remedy="") == "min"
    with pytest.raises(UserError, match=r"smaller 'val/words' is better .*name; set x"):
        chosen_direction("val/words", remedy="set x")
    with pytest.raises(UserError, match=r"'val/los' .*did you mean 'val/loss'"):
        chosen_direction("val/los", remedy="set x")
