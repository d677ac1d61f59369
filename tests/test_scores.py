import pytest

from mmlight.errors import UserError
from mmlight.scores import (
    chosen_direction,
    chosen_metric,
    direction,
    format_value,
    is_share,
    known_direction,
    on_axis,
)


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
    assert direction("val/words", modes=[(None, None), ("val/words", "min")]) == "min"
    assert direction("val/words", modes=[("val/wer", "min")]) == "max"
    # what every run wrote before its mode was told by the name
    assert direction("val/loss", modes=[("val/loss", "max")]) == "min"


def test_what_is_chosen_by_an_unknown_metric_must_be_told():
    assert chosen_direction("val/loss", remedy="") == "min"
    assert chosen_direction("val/words", given="min", remedy="") == "min"
    with pytest.raises(UserError, match=r"smaller 'val/words' is better .*name; set x"):
        chosen_direction("val/words", remedy="set x")
    with pytest.raises(UserError, match=r"'val/los' .*did you mean 'val/loss'"):
        chosen_direction("val/los", remedy="set x")


def test_chosen_metric_is_what_people_report():
    assert chosen_metric({"loss": 1, "wer": 0.2, "cer": 0.1}, asked=None) == "wer"
    assert chosen_metric({"accuracy": 1, "macro_f1": 0.2}, asked="macro_f1") == "macro_f1"
    with pytest.raises(UserError, match=r"no metric 'macro_f2' \(did you mean 'macro_f1'"):
        chosen_metric({"accuracy": 1, "macro_f1": 0.2}, asked="macro_f2")
    with pytest.raises(UserError, match="--metric: image_to_text/recall_at_1, loss"):
        chosen_metric({"loss": 1, "image_to_text/recall_at_1": 0.2}, asked=None)


def test_shares_are_shown_in_percent_wherever_the_metric_is_shown():
    shares = ("val/accuracy", "test/wer_insertions", "val/person/f1", "val/calibration_error")
    assert all(format_value(name, 0.5) == "50.0 %" for name in shares)
    assert on_axis("val/macro_f1") == ("val/macro_f1 (%)", 100)
    assert format_value("val/rmse", 0.5) == "0.5" and on_axis("val/rmse") == ("val/rmse", 1)
    assert not is_share("val/lower") and not is_share("val/accuracy/count")
