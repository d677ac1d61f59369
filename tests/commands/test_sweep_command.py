"""`mmlight sweep`: what is run, what is not run again, and what is said."""

import json
import math

import cli_data
import pytest
import yaml

from mmlight.__main__ import main
from mmlight.runs.plan import local as sweep_local
from mmlight.runs.plan.results import SweepFolder
from mmlight.runs.plan.sweep import load

GIVEN = {
    "experiment": "tiny.yaml",
    "parameters": {"model.lr": {"log_uniform": [1.0e-5, 1.0e-1]}, "kind": ["a", "b"]},
    "metric": "val/accuracy",
    "trials": 5,
}


class Runs:
    """Stands in for the processes: a run's accuracy is highest at lr 1e-3 and kind b."""

    def __init__(self, fails=()):
        self.done = []
        self.fails = fails

    def __call__(self, run, sweep, folder, *, should_stop):
        self.done.append(run.id)
        lr, kind = run.values["model.lr"], run.values["kind"]
        score = 0.9 - 0.1 * abs(math.log10(lr) + 3) - 0.05 * (kind == "a")
        path = folder.run_path(run)
        path.mkdir(exist_ok=True)
        if run.id in self.fails:
            folder.log(run).write_text("mmlight: trainer.max_steps: must be a whole number\n")
            return False
        with (path / "metrics.jsonl").open("w") as log:
            for step in (10, 20):
                row = {"step": step, "wall_s": 1, "val/accuracy": score * step / 20}
                log.write(json.dumps(row) + "\n")
        if should_stop():
            return True
        final = {"val/accuracy": score}
        summary = {"status": "finished", "error": None, "final": final, "best": {}, "wall_s": 60}
        (path / "summary.json").write_text(json.dumps(summary))
        return False


@pytest.fixture
def sweep_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text("{}\n")

    def write(**changes):
        given = {k: v for k, v in (GIVEN | changes).items() if v is not None}
        return cli_data.write_yaml(tmp_path / "mine.yaml", given)

    return write


def run(path, monkeypatch, *arguments, fails=()):
    runs = Runs(fails)
    monkeypatch.setattr(sweep_local, "launch", runs)
    assert main(["sweep", "-c", str(path), *arguments]) == 0
    return runs.done


def test_finished_runs_are_not_run_again(sweep_file, monkeypatch, capsys):
    assert run(sweep_file(), monkeypatch) == [f"trial-{i:03d}" for i in range(5)]
    first = capsys.readouterr().out
    assert run(sweep_file(trials=7), monkeypatch) == ["trial-005", "trial-006"]
    out = capsys.readouterr().out
    assert "best: mmlight fit -c runs/mine/best.yaml" in out
    assert first.splitlines()[0].startswith("trial 0 (1 of 5): lr ")


def test_seeds_are_runs_of_their_own(sweep_file, monkeypatch):
    done = run(sweep_file(trials=1, seeds=[0, 1]), monkeypatch)
    assert done == ["trial-000-seed0", "trial-000-seed1"]


def test_a_failed_run_is_told_and_the_sweep_goes_on(sweep_file, monkeypatch, capsys):
    done = run(sweep_file(), monkeypatch, fails=["trial-002"])
    assert len(done) == 5
    assert "failed (0.0 min): trainer.max_steps: must be" in capsys.readouterr().out
    assert run(sweep_file(), monkeypatch) == ["trial-002"]


@pytest.mark.parametrize("searcher", ["random", "optuna"])
def test_failed_runs_alone_are_run_again(sweep_file, monkeypatch, capsys, tmp_path, searcher):
    if searcher == "optuna":
        pytest.importorskip("optuna")
    run(sweep_file(searcher=searcher), monkeypatch, fails=["trial-002", "trial-004"])
    more = sweep_file(searcher=searcher, trials=7)
    retried = run(more, monkeypatch, "--retry-failed", fails=["trial-004"])
    assert retried == ["trial-002", "trial-004"]
    capsys.readouterr()
    assert run(more, monkeypatch, "--retry-failed") == ["trial-004"]
    table = (tmp_path / "runs/mine/results.csv").read_text()
    assert table.count("finished") == 5 and "failed" not in table
    assert "trial 4 (again): lr " in capsys.readouterr().out
    assert run(more, monkeypatch, "--retry-failed") == []
    assert "no run of the sweep has failed" in capsys.readouterr().out


def test_a_run_that_left_no_folder_has_failed(sweep_file, monkeypatch, tmp_path):
    path = sweep_file()
    run(path, monkeypatch)
    (tmp_path / "runs/mine/trial-003.log").write_text("mmlight: trainer.lr: unknown key\n")
    for file in (tmp_path / "runs/mine/trial-003").iterdir():
        file.unlink()
    (tmp_path / "runs/mine/trial-003").rmdir()
    assert run(path, monkeypatch, "--retry-failed") == ["trial-003"]


def test_a_first_run_that_fails_ends_the_sweep(sweep_file, monkeypatch, capsys):
    monkeypatch.setattr(sweep_local, "launch", Runs(fails=["trial-000"]))
    assert main(["sweep", "-c", str(sweep_file())]) == 2
    said = capsys.readouterr().err
    assert "first run of the sweep failed: trainer.max_steps: must be a whole number" in said
    assert "trial-000.log" in said


def test_list_prints_commands_and_runs_none(sweep_file, monkeypatch, capsys):
    assert run(sweep_file(trials=2), monkeypatch, "--list") == []
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("mmlight fit -c ")
    assert "/tiny.yaml --run.root=runs --run.name=mine --run.id=trial-000 --model.lr=" in lines[0]


def test_wandb_writes_a_file_and_runs_none(sweep_file, monkeypatch, capsys):
    assert run(sweep_file(), monkeypatch, "--wandb") == []
    assert "wandb sweep --project mmlight runs/mine/wandb_sweep.yaml" in capsys.readouterr().out
    with open("runs/mine/wandb_sweep.yaml") as file:
        assert yaml.safe_load(file)["method"] == "random"


class Broken(Exception):
    pass


def test_optuna_goes_on_as_if_it_had_not_been_broken_off(sweep_file, monkeypatch, tmp_path):
    pytest.importorskip("optuna")
    path = sweep_file(searcher="optuna", trials=14)
    whole = run(path, monkeypatch, "--root", "whole")
    assert len(whole) == 14

    class Cut(Runs):
        def __call__(self, run, *args, **kwargs):
            if len(self.done) == 11:
                raise Broken
            return super().__call__(run, *args, **kwargs)

    monkeypatch.setattr(sweep_local, "launch", Cut())
    with pytest.raises(Broken):
        main(["sweep", "-c", str(path), "--root", "cut"])
    assert run(path, monkeypatch, "--root", "cut") == ["trial-011", "trial-012", "trial-013"]
    tables = [(tmp_path / root / "mine/results.csv").read_text() for root in ("whole", "cut")]
    assert tables[0] == tables[1]
    assert len(tables[0].splitlines()) == 15


def test_optuna_ends_hopeless_runs_when_asked_to(sweep_file, monkeypatch, tmp_path):
    pytest.importorskip("optuna")
    run(sweep_file(searcher="optuna", trials=12, prune=True), monkeypatch)
    table = (tmp_path / "runs/mine/results.csv").read_text()
    assert 1 <= table.count("pruned") < 10
    assert run(sweep_file(searcher="optuna", trials=12, prune=True), monkeypatch) == []


def test_sweep_without_optuna_says_what_to_install(sweep_file, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    assert main(["sweep", "-c", str(sweep_file(searcher="optuna"))]) == 2
    assert "pip install 'mmlight[sweep]'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_real_runs_are_compared_and_a_broken_one_is_continued(tmp_path, monkeypatch):
    data = cli_data.write_data(tmp_path / "data")
    values = cli_data.experiment(data, tmp_path / "elsewhere") | {
        "checkpoint": {"every_n_steps": 2}
    }
    cli_data.write_yaml(tmp_path / "tiny.yaml", values)
    path = cli_data.write_yaml(
        tmp_path / "mine.yaml",
        {
            "experiment": "tiny.yaml",
            "parameters": {"model.init_args.optimizer.lr": [1e-3, 1e-2]},
            "searcher": "grid",
            "metric": "val/loss",
        },
    )
    sweep, folder = load(path), SweepFolder(tmp_path / "runs", "mine")
    folder.open(sweep)
    # What a run killed at step 4 leaves behind.
    code = cli_data.run_in_process(
        *("fit", "-c", tmp_path / "tiny.yaml", "--run.root", tmp_path / "runs"),
        *("--run.name=mine", "--run.id=trial-000", "--trainer.max_steps=4"),
    )
    assert code == 0
    (folder.path / "trial-000/summary.json").unlink()
    log = folder.path / "trial-000/metrics.jsonl"
    log.write_text('{"step": 1, "wall_s": 1, "kept": 1}\n' + log.read_text())
    assert cli_data.run_in_process("sweep", "-c", path, "--root", tmp_path / "runs") == 0
    for number in range(2):
        rows = cli_data.losses(folder.path / f"trial-{number:03d}")
        assert sorted(rows) == [1, 2, 3, 4, 5, 6]
    assert '"kept": 1' in log.read_text()  # a run from its beginning would have dropped it
    assert (folder.path / "sweep.png").exists()
    config = yaml.safe_load((folder.path / "trial-001/config.yaml").read_text())
    assert config["model"]["init_args"]["optimizer"]["lr"] == 0.01
    assert len((folder.path / "results.csv").read_text().splitlines()) == 3
