"""Regression of one number and of several."""

import json
import sys
from dataclasses import replace

import cli_data
import numpy as np
import pytest
import torch
import yaml
from tasks import tiny

from mmlight.errors import UserError
from mmlight.metrics.numbers import NumberEvaluation, number_scores
from mmlight.runs.run.ckpt_path import best_checkpoint
from mmlight.runs.run.folder import Run
from mmlight.runs.run.metrics_log import read_rows
from mmlight.tasks.evaluation import evaluate
from mmlight.tasks.load import load_task
from mmlight.tasks.regression import Regression
from mmlight.tasks.tower import Towers


def regression(**settings):
    torch.manual_seed(0)
    towers = Towers(image=tiny.towers().image)
    task = Regression(**{"towers": towers, "target": "size"} | settings)
    task.configure_model()
    return task.eval()


def batch(values, **fields):
    return replace(tiny.batch(len(values)), fields={"size": values, **fields})


def test_scores_are_of_the_samples_with_a_target_in_its_units():
    task = regression()
    task.mean_K.fill_(10.0)
    task.deviation_K.fill_(4.0)
    given = batch([7, "9.5", None, 12.0])
    given = replace(given, valid_B=torch.tensor([True, True, True, False]))
    scores = evaluate(task, [given])
    with torch.no_grad():
        said = task.values(given)[:2, 0]
    apart = (said - torch.tensor([7.0, 9.5])).double()
    assert scores["mae"] == pytest.approx(float(apart.abs().mean()), rel=1e-6)
    assert scores["rmse"] == pytest.approx(float(apart.square().mean().sqrt()), rel=1e-6)
    assert scores["loss"] == pytest.approx(float((apart / 4).square().mean()), rel=1e-5)
    assert set(scores) <= task.score_names()
    rows = task.predict_step(given, 0)
    assert [row["key"] for row in rows] == given.keys[:3]
    assert rows[1]["value"] == pytest.approx(float(said[1]))


def test_several_numbers_have_their_own_scores_and_their_mean():
    task = regression(names=["x", "y"])
    scores = evaluate(task, [batch([[1, 2], [3, 4], [5, 9]])])
    assert set(scores) == task.score_names()
    assert scores["mae"] == pytest.approx((scores["x/mae"] + scores["y/mae"]) / 2)
    (row, *_) = task.predict_step(batch([None] * 3), 0)
    assert set(row["values"]) == {"x", "y"}


def test_scores_that_mean_nothing_are_left_out():
    alike = np.ones((3, 1))
    given = NumberEvaluation(
        stage="val",
        samples_S=np.arange(3),
        keys=["a", "b", "c"],
        value_SK=alike,
        target_SK=alike,
        names=["x"],
    )
    assert number_scores(given) == {"mae": 0, "rmse": 0}


@pytest.mark.parametrize(
    ("settings", "values", "said"),
    [
        ({}, ["many"], "field 'size' of sample 00000/0: 'many' is not a finite number"),
        ({}, [[1, 2]], "model.names says what a list's numbers are"),
        ({}, [True], "not a finite number"),
        ({"names": ["x", "y"]}, [[1]], r"no list of 2 numbers \(model.names: x, y\)"),
        ({"names": ["x", "y"]}, [3], "no list of 2 numbers"),
        ({"target": "weight"}, [1], r"no field 'weight'.*\{weight: json:weight\}"),
    ],
)
def test_what_is_no_such_number_is_one_line(settings, values, said):
    with pytest.raises(UserError, match=said) as refused:
        regression(**settings).known_targets(batch(values))
    assert "\n" not in str(refused.value)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that learns from an image which of four colours it has, as a number."""
    folder = tmp_path_factory.mktemp("regression")
    data = cli_data.write_data(folder / "data")
    values = cli_data.experiment(data, folder / "runs")
    arguments = values["model"]["init_args"]
    towers = {"image": arguments["towers"]["image"]}
    metric = {"class_path": "torchmetrics.regression.ExplainedVariance"}
    values["model"] = {
        "class_path": "mmlight.tasks.regression.Regression",
        "init_args": {
            "towers": towers,
            "target": "colour",
            "objective": {"class_path": "mmlight.objectives.regression.Huber"},
            "metrics": {"explained": metric},
            "optimizer": {"lr": 3e-3},
            "schedule": {"warmup_steps": 2, "kind": "constant"},
        },
    }
    values["data"]["init_args"] |= {
        "members": {"image": "png", "fields": {"colour": "cls"}},
        "audio": None,
        "text": None,
    }
    values["trainer"]["max_steps"] = 60
    values["checkpoint"] = {"monitor": "val/mae"}
    values["run"]["test"] = True
    path = cli_data.write_yaml(folder / "number.yaml", values)
    assert cli_data.run_in_process("fit", "-c", path) == 0
    (run,) = (folder / "runs/number").iterdir()
    return path, run


def test_it_learns_and_keeps_the_smallest_error(trained):
    _, run = trained
    rows = read_rows(run / "metrics.jsonl")
    errors = {row["step"]: row["val/mae"] for row in rows if "val/mae" in row}
    final = json.loads((run / "summary.json").read_text())["final"]
    assert final["test/r2"] > 0.5 and final["test/explained"] > 0.5
    (best,) = (run / "checkpoints").glob("best-*.ckpt")
    assert errors[int(best.stem.partition("-")[2])] == min(errors.values())


def test_the_checkpoint_alone_answers_in_the_units_of_the_data(trained):
    _, run = trained
    (last,) = (run / "checkpoints").glob("step-*.ckpt")
    task = load_task(last)
    assert task.mean_K.tolist() == pytest.approx([1.5])
    assert task.deviation_K.tolist() == pytest.approx([5**0.5 / 2])
    assert "metrics" not in task.description["init_args"]


def test_the_class_of_an_added_metric_says_which_way_it_is_better(trained):
    path, run = trained
    name = "val/explained"
    given = ("--checkpoint.monitor", name, "--early_stopping.monitor", name)
    few = ("--trainer.max_steps", "10", "--run.test", "false", "--run.id", "monitored")
    assert cli_data.run_in_process("fit", "-c", path, *given, *few) == 0
    made = Run(run.with_name("monitored"))
    assert made.setting("checkpoint.monitor_mode") == "max"
    values = {row["step"]: row[name] for row in read_rows(made.metrics_jsonl) if name in row}
    best = max(values, key=lambda step: values[step])
    assert json.loads(made.summary_json.read_text())["best"][name]["step"] == best
    assert best_checkpoint(made).path.name == f"best-{best:08d}.ckpt"


@pytest.mark.slow
def test_predict_export_and_compare_take_it(trained, capsys, tmp_path):
    path, run = trained
    assert cli_data.run_in_process("predict", "-c", path, "--ckpt_path", run) == 0
    (predicted,) = run.parent.parent.rglob("predictions.jsonl")
    rows = [json.loads(line) for line in predicted.read_text().splitlines()]
    assert len(rows) == 8 and all(isinstance(row["value"], float) for row in rows)
    assert cli_data.run_in_process("compare", run, "--out", tmp_path / "out") == 0
    assert "val/mae" in capsys.readouterr().out
    assert cli_data.run_in_process("export", run, "--out", tmp_path / "export") == 0


@pytest.mark.slow
def test_folds_take_it(trained, capsys, tmp_path):
    path, _ = trained
    values = yaml.safe_load(path.read_text())
    values = cli_data.changed(
        values,
        {
            "data.init_args.val": None,
            "data.init_args.test": None,
            "data.init_args.predict": None,
            "trainer.max_steps": 5,
            "run.root": str(tmp_path / "runs"),
            "run.test": False,
            "checkpoint.monitor": None,
        },
    )
    path = cli_data.write_yaml(tmp_path / "folded.yaml", values)
    assert cli_data.run_in_process("folds", "-c", path, "--k", "2", "--field", "cls") == 0
    assert "test/mae" in capsys.readouterr().out


def test_own_parts_in_one_file_train_resume_predict_and_export(tmp_path, monkeypatch):
    """Encoder, loss, task and metric of `experiments/own/my_parts.py`, from outside the package."""
    import shutil
    from pathlib import Path

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    own = Path(__file__).parents[2] / "experiments/own"
    shutil.copy(own / "my_parts.py", tmp_path)
    data = cli_data.write_data(tmp_path / "data")
    values = cli_data.experiment(data, tmp_path / "runs")
    shown = yaml.safe_load((own / "digits_amount.yaml").read_text())
    values["import"], values["model"] = "my_parts", shown["model"]
    values["model"]["init_args"] |= {"most": 3}
    values["data"]["init_args"] |= {
        "members": {"image": "png", "fields": {"digit": "cls"}},
        "audio": None,
        "text": None,
    }
    values["checkpoint"] = {"monitor": "val/near", "monitor_mode": "max"}
    path = cli_data.write_yaml(tmp_path / "own.yaml", values)
    assert cli_data.run_in_process("fit", "-c", path) == 0
    (run,) = (tmp_path / "runs/own").iterdir()
    final = json.loads((run / "summary.json").read_text())["final"]
    assert 0 <= final["val/near"] <= 1 and final["val/mae"] >= 0
    more = ("--ckpt_path", "last", "--trainer.max_steps", "8")
    assert cli_data.run_in_process("fit", "-c", path, *more) == 0
    assert max(row["step"] for row in read_rows(run / "metrics.jsonl")) == 8
    assert cli_data.run_in_process("predict", "-c", path, "--ckpt_path", run) == 0
    (predicted,) = (tmp_path / "runs").rglob("predictions.jsonl")
    assert len(predicted.read_text().splitlines()) == 8
    export = ("export", run, "--out", tmp_path / "out", "--format", "none", "--import", "my_parts")
    assert cli_data.run_in_process(*export) == 0
    sys.modules.pop("my_parts", None)
