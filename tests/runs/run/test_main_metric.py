"""The metric that a run is known by is the same in `ps`, `runs` and `compare`."""

import json
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from compare_data import write_run

from mmlight.__main__ import main
from mmlight.scores import main_metric, parts, value_of

PAIRS = {
    "val/image_to_text/recall_at_1": 0.5,
    "val/text_to_image/recall_at_1": 0.25,
    "val/image_to_text/recall_at_10": 0.75,
}


def test_the_monitor_comes_first_then_scores_then_losses():
    values = {"train/loss": 1.0, "val/loss": 2.0, "test/accuracy": 0.5, "val/cer": 0.1}
    assert main_metric(values, monitor="val/cer") == "val/cer"
    assert main_metric(values, monitor="val/none") == "test/accuracy"
    assert main_metric({"train/loss": 1.0, "val/loss": 2.0}, monitor=None) == "val/loss"
    assert main_metric({"train/loss": 1.0}, monitor=None) == "train/loss"
    assert main_metric({"train/lr": 1.0}, monitor=None) is None
    assert main_metric(PAIRS, monitor=None) == "val/recall_at_1"


def test_a_score_of_several_pairs_is_their_mean():
    assert parts("val/recall_at_1", PAIRS) == list(PAIRS)[:2]
    assert value_of("val/recall_at_1", PAIRS) == 0.375
    assert value_of("val/image_to_text/recall_at_1", PAIRS) == 0.5
    assert value_of("test/recall_at_1", PAIRS) is None


@pytest.mark.parametrize("status", ["finished", None])
@pytest.mark.parametrize(
    ("monitor", "values", "metric", "shown"),
    [
        ("val/macro_f1", {"val/macro_f1": 0.25, "val/accuracy": 0.5}, "val/macro_f1", "25.0 %"),
        (None, {"val/loss": 2.0, "val/accuracy": 0.5, "test/loss": 1}, "val/accuracy", "50.0 %"),
        (None, {**PAIRS, "val/loss": 2.0}, "val/recall_at_1", "37.5 %"),
    ],
)
def test_ps_runs_and_compare_agree(
    tmp_path, monkeypatch, capsys, status, monitor, values, metric, shown
):
    monkeypatch.chdir(tmp_path)
    row = {"step": 4, "samples": 32, "wall_s": 2.0, "epoch": 0, "train/loss": 3.0, **values}
    config = {"checkpoint": {"monitor": monitor}}
    write_run(tmp_path / "runs/a/1", config=config, rows=[row], status=status)
    said = {}
    for command in (["ps"], ["runs"], ["compare", "a", "--out", "out"]):
        assert main(command) == 0
        said[command[0]] = capsys.readouterr().out
    assert f"loss 3, {metric} {shown}" in " ".join(said["ps"].split())
    assert f"{metric} {shown}" in " ".join(said["runs"].split())
    heading = next(ln for ln in said["compare"].splitlines() if ln.split()[:1] == ["run"])
    assert re.split(r"\s{2,}", heading.strip())[1] == metric
    assert main(["runs", "--metric", metric, "--where", f"{metric}>0.1"]) == 0
    assert shown in capsys.readouterr().out


def test_the_summary_names_the_monitor_so_that_no_further_file_is_read(tmp_path, capsys):
    path = write_run(tmp_path / "runs/a/1", config={}, rows=[{"step": 1, "val/x": 2.0}])
    summary = json.loads((path / "summary.json").read_text())
    (path / "summary.json").write_text(json.dumps(summary | {"monitor": "val/x"}))
    (path / "config.yaml").unlink()
    assert main(["runs", "--root", str(tmp_path / "runs")]) == 0
    assert "val/x 2" in capsys.readouterr().out


def test_in_a_pipe_each_run_is_one_whole_line(tmp_path, capsys):
    row = {"step": 4, "samples": 32, "wall_s": 2.0, "epoch": 0, "val/accuracy": 0.5}
    name = "a-rather-long-name-of-an-experiment-in-a-lab-with-many-of-them"
    config = {"checkpoint": {"monitor": None}}
    write_run(tmp_path / name / "20260101-101010-abcd", config=config, rows=[row])
    assert main(["runs", "--root", str(tmp_path), "--show", "checkpoint.monitor"]) == 0
    (line,) = [ln for ln in capsys.readouterr().out.splitlines() if name in ln]
    assert "val/accuracy 50.0 %" in line and line.rstrip() == line
