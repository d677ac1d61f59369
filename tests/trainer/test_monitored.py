"""Metrics that are monitored are looked for before training."""

import cli_data
import pytest


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("monitored")
    data = cli_data.write_data(folder / "data")
    values = cli_data.experiment(data, folder / "runs")
    values["zero_shot"] = {"templates": "plain"}
    return cli_data.write_yaml(folder / "tiny.yaml", values)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ("checkpoint.monitor", "val/image_to_text/recal_at_5_recall"),
            "checkpoint.monitor: there is no metric 'val/image_to_text/recal_at_5_recall' (did you "
            "mean 'val/image_to_text/recall_at_5'?)",
        ),
        (
            ("early_stopping.monitor", "val/zero_shot/image_accuracy"),
            "early_stopping.monitor: there is no metric 'val/zero_shot/image_accuracy'",
        ),
        (("checkpoint.monitor", "test/loss"), "'test/loss' is measured after training"),
        (("checkpoint.monitor", "val/beauty"), "set checkpoint.monitor_mode to max or min"),
    ],
)
def test_what_no_validation_has_is_refused_before_the_first_step(path, given, said, capsys):
    key, name = given
    code = cli_data.run_in_process("fit", "-c", path, f"--{key}", name)
    err = capsys.readouterr().err
    assert code == 2 and said in err and "Traceback" not in err
    runs = path.parent / "runs"
    assert not [f for f in runs.rglob("metrics.jsonl") if f.read_text()]


def test_a_score_of_zero_shot_and_one_without_its_direction_are_known(path, capsys):
    name = "val/zero_shot/image_accuracy_at_1"
    given = ("--checkpoint.monitor", name, "--early_stopping.monitor", "val/loss")
    assert cli_data.run_in_process("fit", "-c", path, *given, "--run.id", "known") == 0
    assert list((path.parent / "runs").rglob("known/checkpoints/best-*.ckpt"))


def test_a_first_validation_after_several_epochs_is_one(path):
    later = ("--trainer.max_steps", "10", "--trainer.check_val_every_n_epoch", "2")
    monitored = ("--checkpoint.monitor", "val/loss", "--early_stopping.monitor", "val/loss")
    code = cli_data.run_in_process("fit", "-c", path, *later, *monitored, "--run.id", "later")
    assert code == 0
    assert list((path.parent / "runs").rglob("later/checkpoints/best-*.ckpt"))
