"""`mmlight folds` from the command line on tiny data."""

import json
import signal
import time

import cli_data
import pytest
import yaml

from mmlight.commands import folds as folds_command
from mmlight.errors import UserError
from mmlight.experiment.parser import completed, resolve
from mmlight.runs.plan.cross_validation import FoldsFolder
from mmlight.runs.run.folder import Run
from mmlight.runs.run.metrics_log import read_rows


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return cli_data.write_data(tmp_path_factory.mktemp("folds"))


@pytest.fixture
def experiment(data, tmp_path):
    values = cli_data.experiment(data, tmp_path / "runs")
    towers = values["model"]["init_args"]["towers"]
    values["model"] = {
        "class_path": "mmlight.tasks.classification.Classification",
        "init_args": {"towers": {"image": towers["image"]}, "optimizer": {"lr": 1.0e-3}},
    }
    values = cli_data.changed(
        values,
        {
            "data.init_args.members": {"image": "png", "label": "cls"},
            "data.init_args.text": None,
            "data.init_args.audio": None,
            "data.init_args.test": None,
            "data.init_args.val": None,
            "data.init_args.predict": None,
        },
    )
    return cli_data.write_yaml(tmp_path / "tiny.yaml", values)


def folds(experiment, *arguments):
    return cli_data.run_in_process("folds", "-c", experiment, *arguments)


def test_lists_the_folds_and_makes_nothing(experiment, tmp_path, capsys):
    assert folds(experiment, "--field", "cls", "--k", 2, "--list") == 0
    said = capsys.readouterr().out
    assert "fold fold0: tested on 20 of 40 samples  (0, 2)" in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--field", "json:speaker"), "no sample has 'json:speaker'; keys there are captions"),
        ((), "give --field (such as json:speaker), --k, or both"),
        (("--k", "2", "--jobs", "0"), "--jobs 0 must be 1 or more"),
        (("--k", "2", "--resume"), "nothing to go on with"),
        (("--k", "2", "--model.lr", "3"), "lr"),
    ],
)
def test_mistakes_are_told_in_one_line(experiment, tmp_path, capsys, arguments, told):
    assert folds(experiment, *arguments) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("mmlight: ") and told in said
    assert not (tmp_path / "runs").exists()


def test_a_setting_of_the_model_may_hold_the_folds_name():
    model = {"towers": {"audio": {"from_run": "runs/digits/x-{fold}"}}, "sizes": [1, "{fold}"]}
    named = folds_command._named(model, "ann")
    assert named == {"towers": {"audio": {"from_run": "runs/digits/x-ann"}}, "sizes": [1, "ann"]}


def without_newer_settings(config):
    """Return a configuration as a version wrote it that had fewer settings, and other names."""
    model = {**config["model"]["init_args"]}
    del model["compile"], model["tuning"]
    encoder = model["towers"]["image"]["encoder"]
    old = {**encoder["init_args"]}
    old["timm_name"] = old.pop("name")
    model["towers"] = {"image": {"encoder": {**encoder, "init_args": old}}}
    run = {key: value for key, value in config["run"].items() if key != "tags"}
    return {**config, "model": {**config["model"], "init_args": model}, "run": run}


def test_a_newer_version_goes_on_where_its_new_settings_have_their_defaults(experiment, tmp_path):
    now, _ = resolve(["fit", "-c", str(experiment)])
    plan = {"field": None, "k": 2, "folds": [], "config": now}
    folder = FoldsFolder(Run(tmp_path))
    folder.plan.write_text(json.dumps({**plan, "config": without_newer_settings(now)}))
    folder.check_same(plan, completed=completed)
    for change in ("--model.compile=blocks", "--run.tags=[a]", "--model.optimizer.lr=0.5"):
        changed, _ = resolve(["fit", "-c", str(experiment), change])
        name = change.partition("=")[0].removeprefix("--model.").removeprefix("--")
        with pytest.raises(UserError, match=f"{name}: .*, now it is"):
            folder.check_same({**plan, "config": changed}, completed=completed)


@pytest.mark.slow  # five starts of the command line
def test_runs_each_fold_and_sums_up(experiment, tmp_path, capsys):
    run = ("--k", 2, "--run.id", "x", "--trainer.max_steps", 3)
    assert folds(experiment, *run, "--jobs", 2) == 0
    assert "accuracy" in capsys.readouterr().out
    summary = json.loads((tmp_path / "runs/tiny/x/folds.json").read_text())
    assert summary["status"] == "finished" and len(summary["folds"]) == 2
    scores = [fold["metrics"]["test/accuracy"] for fold in summary["folds"]]
    assert summary["metrics"]["test/accuracy"]["mean"] == pytest.approx(sum(scores) / 2)
    config = yaml.safe_load((tmp_path / "runs/tiny/x-fold0/config.yaml").read_text())
    assert config["data"]["init_args"]["train"]["without"] == {"fold:2": ["0"]}
    assert config["data"]["init_args"]["test"]["only"] == {"fold:2": ["0"]}
    assert config["run"]["test"] is True

    # started again: nothing is trained, and other settings are refused
    before = (tmp_path / "runs/tiny/x-fold1/summary.json").stat().st_mtime_ns
    plan = tmp_path / "runs/tiny/x/plan.json"
    begun = json.loads(plan.read_text())  # as by a version without some settings
    plan.write_text(json.dumps({**begun, "config": without_newer_settings(begun["config"])}))
    assert folds(experiment, *run, "--resume") == 0
    assert (tmp_path / "runs/tiny/x-fold1/summary.json").stat().st_mtime_ns == before
    capsys.readouterr()
    assert folds(experiment, *run, "--resume", "--trainer.max_steps", 4) == 2
    assert "trainer.max_steps: 3, now it is 4" in capsys.readouterr().err
    assert folds(experiment, *run) == 2
    assert "--resume goes on with it" in capsys.readouterr().err


@pytest.mark.slow
def test_a_fold_that_was_broken_off_goes_on_at_its_checkpoint(experiment, tmp_path):
    arguments = ("folds", "-c", experiment, "--k", "2", "--run.id", "x", "--trainer.max_steps")
    arguments += ("60", "--values", "0", "--checkpoint.every_n_steps", "5")
    started = cli_data.start(*arguments, cwd=tmp_path)
    checkpoints = tmp_path / "runs/tiny/x-fold0/checkpoints"
    while not list(checkpoints.glob("step-*.ckpt")):
        assert started.poll() is None
        time.sleep(0.1)
    started.send_signal(signal.SIGTERM)
    assert started.wait(60) != 0
    rows = read_rows(tmp_path / "runs/tiny/x-fold0/metrics.jsonl")
    assert rows[-1]["step"] < 60

    again = cli_data.start(*arguments, "--resume", cwd=tmp_path)
    said, errors = again.communicate(timeout=200)
    assert again.returncode == 0, errors
    summary = json.loads((tmp_path / "runs/tiny/x/folds.json").read_text())
    assert summary["status"] == "finished"
    assert "1 of 1 folds" in said
    steps = [row["step"] for row in read_rows(tmp_path / "runs/tiny/x-fold0/metrics.jsonl")]
    assert steps[:60] == list(range(1, 61))
    log = (tmp_path / "runs/tiny/x/fold0.log").read_text()
    assert log.count("train 1/60") <= 1  # the second run did not begin anew


@pytest.mark.slow
def test_a_fold_that_fails_says_so(experiment, tmp_path, capsys):
    assert folds(experiment, "--k", 2, "--data.global_batch_size", 30) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "fold fold0 failed: 20 samples are fewer than one global batch of 30" in said
