import json
import os
from statistics import mean, stdev

import pytest
from rich.console import Console

from mmlight.files import write_json
from mmlight.runs.plan.cross_validation import (
    FoldResult,
    FoldsFolder,
    format_folds,
    newest,
    read_result,
    statistics,
    write_summary,
)
from mmlight.runs.run.folder import Run

ACCURACY = [0.75, 0.875, 0.5]


def finished(number: int, accuracy: float, **more: float) -> FoldResult:
    metrics = {"test/accuracy": accuracy, "test/loss": 1 - accuracy, **more}
    return FoldResult(f"f{number}", (str(number),), 10, f"x-f{number}", "finished", 60.0, metrics)


def folder(tmp_path) -> FoldsFolder:
    (tmp_path / "name" / "x").mkdir(parents=True, exist_ok=True)
    return FoldsFolder(Run(tmp_path / "name" / "x"))


def test_statistics_are_those_of_the_standard_library():
    results = [finished(i, value) for i, value in enumerate(ACCURACY)]
    found = statistics(results)["test/accuracy"]
    assert found == {
        "mean": mean(ACCURACY),
        "std": pytest.approx(stdev(ACCURACY)),
        "min": 0.5,
        "max": 0.875,
    }


def test_unfinished_folds_and_lone_metrics_do_not_count():
    results = [finished(0, 0.5, **{"test/only_here": 1.0}), finished(1, 0.7)]
    results.append(FoldResult("f2", ("2",), 10, "x-f2", "failed", 1.0, {"test/accuracy": 0.0}))
    found = statistics(results)
    assert found["test/accuracy"]["mean"] == pytest.approx(0.6)
    assert "test/only_here" not in found
    assert "std" not in statistics(results[:1])["test/accuracy"]
    assert statistics([]) == {}


def test_a_fold_counts_as_finished_once_it_was_scored(tmp_path):
    planned = FoldResult("f0", ("0",), 10, "x-f0")
    run = folder(tmp_path).fold_run("f0")
    assert run.path == tmp_path / "name" / "x-f0"
    assert read_result(planned, run).status == "new"
    trained = {"status": "finished", "final": {"train/loss": 1.0}, "wall_s": 3.0, "error": None}
    write_json(run.summary_json, trained)
    assert not read_result(planned, run).is_finished
    write_json(run.summary_json, {**trained, "final": {"train/loss": 1.0, "test/accuracy": 0.5}})
    result = read_result(planned, run)
    assert result.is_finished and result.metrics == {"test/accuracy": 0.5}
    write_json(run.summary_json, {**trained, "status": "failed", "error": "oh"})
    assert read_result(planned, run).error == "oh"


def test_summary_says_what_is_missing(tmp_path):
    results = [finished(0, 0.5), FoldResult("f1", ("1",), 10, "x-f1")]
    write_summary(folder(tmp_path), results, about={"k": 2})
    summary = json.loads((tmp_path / "name/x/folds.json").read_text())
    assert (summary["status"], summary["k"], summary["wall_s"]) == ("unfinished", 2, 60.0)
    assert [fold["status"] for fold in summary["folds"]] == ["finished", "new"]
    write_summary(folder(tmp_path), results[:1], about={})
    summary = json.loads((tmp_path / "name/x/folds.json").read_text())
    assert summary["status"] == "finished"
    assert summary["metrics"]["test/accuracy"]["mean"] == 0.5


def test_table_shows_folds_while_they_fit():
    def shown(results):
        console = Console(width=80, record=True, file=open(os.devnull, "w"))
        console.print(format_folds(results))
        return console.export_text()

    few = shown([finished(i, value) for i, value in enumerate(ACCURACY)])
    assert "70.8 ± 19.1 %" in few and "f2" in few and "87.5" in few
    many = shown([finished(i, 0.5 + i / 100) for i in range(12)])
    assert "f3" not in many and "least" in many and "61.0" in many
    assert max(map(len, (few + many).splitlines())) <= 80


def test_newest_is_the_one_begun_last(tmp_path):
    assert newest(tmp_path, name="name") is None
    for age_s, name in ((20, "b"), (10, "a")):
        plan = tmp_path / "name" / name / "plan.json"
        plan.parent.mkdir(parents=True)
        plan.write_text("{}")
        os.utime(plan, (1e9 - age_s, 1e9 - age_s))
    found = newest(tmp_path, name="name")
    assert found is not None and found.id == "a"
