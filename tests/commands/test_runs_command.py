import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "runs"))

from compare_data import rows_of, twelve, write_run

from mmlight.__main__ import main


@pytest.fixture
def root(tmp_path, monkeypatch):
    twelve(tmp_path / "runs")
    rows = rows_of((0.1, 0.2, 0.9), speed=10, seconds=1)
    config = {"model": {"init_args": {"optimizer": {"lr": 1.0}}}, "run": {"tags": ["paper", "x"]}}
    write_run(tmp_path / "runs" / "other" / "one", config=config, rows=rows, status="failed")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def listed(capsys, *arguments):
    assert main(["runs", "-q", *arguments]) == 0
    return set(capsys.readouterr().out.split())


def test_runs_are_filtered_by_name_state_setting_and_score(root, capsys):
    assert len(listed(capsys)) == 13
    assert listed(capsys, "other") == {"other/one"}
    assert len(listed(capsys, "grid/lr0.1-*")) == 4
    assert listed(capsys, "--status", "failed") == {"other/one"}
    assert len(listed(capsys, "--where", "optimizer.lr=1e-3")) == 4
    assert len(listed(capsys, "--where", "model.init_args.optimizer.lr<0.1")) == 8
    assert listed(capsys, "--where", "val/accuracy>=0.8", "--where", "lr=0.1") == {
        "grid/lr0.1-seed1",
        "grid/lr0.1-seed3",
    }
    assert listed(capsys, "--where", "run.tags=paper") == {"other/one"}
    assert listed(capsys, "--where", "run.tags=pape") == set()


def test_the_best_by_a_metric_comes_first(root, capsys):
    assert main(["runs", "grid", "--metric", "val/accuracy", "--show", "lr"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if "grid/" in line]
    assert lines[0][0] == "grid/lr0.1-seed1" and lines[0][3:6] == ["0.1", "80.0", "%"]
    assert lines[-1][0].startswith("grid/lr0.001")


def test_csv_has_all_digits(root, capsys):
    main(["runs", "grid/lr0.1-seed0", "--csv", "--show", "lr"])
    heads, values = (line.split(",") for line in capsys.readouterr().out.splitlines())
    found = dict(zip(heads, values, strict=True))
    assert found["train/loss"] == str(1 / 30) and found["lr"] == "0.1"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--where", "lr"], "--where lr: write KEY=VALUE"),
        (["--where", "optimizer.lrr=1"], "no run has a setting 'optimizer.lrr' (did you mean"),
        (["--where", "lrr!=1"], "--where lrr!=1: no run has a setting 'lrr' (did you mean 'lr'?)"),
        (["--where", "val/acuracy>0"], "no run has a metric 'val/acuracy' (did you mean 'val/acc"),
        (
            ["--show", "rn.tags"],
            "--show rn.tags: no run has a setting 'rn.tags' (did you mean 'run",
        ),
        (["--metric", "val/acc"], "none of these runs has it (did you mean 'val/accuracy'?)"),
    ],
)
def test_mistakes_are_said_in_a_line(root, capsys, arguments, said):
    assert main(["runs", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_thousand_runs_are_listed_within_half_a_second(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = rows_of((0.1, 0.2, 0.3), speed=10, seconds=1) * 20
    config = {f"part{n}": {"init_args": {f"key{k}": k for k in range(12)}} for n in range(12)}
    first = write_run(tmp_path / "runs" / "x0" / "r0", config=config, rows=rows)
    for number in range(1, 1000):
        folder = tmp_path / "runs" / f"x{number % 20}" / f"r{number}"
        folder.mkdir(parents=True)
        for file in first.iterdir():
            (folder / file.name).hardlink_to(file)
    # The processor's time: what else the machine does is not ours.
    began = time.process_time()
    assert main(["runs", "--where", "part3.key5=5"]) == 0
    assert time.process_time() - began < 0.5
    assert "the last 40 of 1,000 runs" in capsys.readouterr().err
    began = time.process_time()
    assert main(["ps", "--all"]) == 0
    assert time.process_time() - began < 0.6
    assert capsys.readouterr().out.count("finished") == 1000
