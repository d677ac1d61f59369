import json

from mmlight.runs.code.losses import Logged, first_difference, read_losses
from mmlight.runs.code.recorded import Difference


def logged(*values, name="train/loss"):
    return [Logged(10 * (i + 1), {name: value}) for i, value in enumerate(values)]


def test_only_training_losses_are_read(tmp_path):
    rows = [
        {"step": 1, "wall_s": 1, "train/loss": 0.1, "train/lr": 1.0, "train/loss_clip": "nan"},
        {"step": 1, "wall_s": 1, "val/loss": 0.3},
        {"step": 2, "wall_s": 1, "train/samples_per_s": 3.0, "train/loss_ms": 1.5},
    ]
    log = tmp_path / "metrics.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_losses(log) == [Logged(1, {"train/loss": 0.1, "train/loss_clip": "nan"})]


def test_equal_as_far_as_both_go():
    assert first_difference(logged(1.0, "nan", 0.5), logged(1.0, "nan")) is None


def test_the_first_difference_is_found():
    found = first_difference(logged(1.0, 0.5, 0.2), logged(1.0, 0.5 + 2**-53, 0.3))
    assert found == Difference("step 20: train/loss", "0.5", repr(0.5 + 2**-53))


def test_steps_and_losses_that_only_one_has_differ():
    before, now = logged(1.0, 0.5), [Logged(15, {"train/loss": 1.0})]
    assert first_difference(before, now) == Difference("step 10: train/loss", "1.0", "not logged")
    assert first_difference(logged(1.0), logged(1.0, name="train/loss_b")) == Difference(
        "step 10: train/loss", "1.0", "not logged"
    )
