"""Sweeps as one SLURM array on a real cluster."""

import shutil

import cli_data
import pytest
import yaml
from slurm_cluster import wait_for

from mmlight.__main__ import main
from mmlight.runs.plan.optuna_search import OptunaSearch
from mmlight.runs.plan.results import SweepFolder
from mmlight.runs.plan.sweep import load
from mmlight.runs.run.attempts import read_attempts
from mmlight.runs.run.submission import Submission
from mmlight.runs.slurm import client

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]
LR = "model.init_args.optimizer.lr"
SHARDS = "data.init_args.train.shards"


@pytest.fixture
def lab(slurm, tmp_path, monkeypatch):
    """A folder with data, an experiment of six steps and a profile; its name has a space."""
    folder = tmp_path / "my lab"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    data = cli_data.write_data(folder / "data")
    values = cli_data.experiment(data, folder / "runs")
    cli_data.write_yaml(folder / "tiny.yaml", values | {"checkpoint": {"every_n_steps": 1}})
    cli_data.write_yaml(folder / "site.yaml", {"time": "01:00:00", "partition": "main"})

    def sweep(name, **given):
        path = folder / f"{name}.yaml"
        cli_data.write_yaml(path, {"experiment": "tiny.yaml", "metric": "val/loss"} | given)
        return path

    return sweep


def submit(path, *arguments):
    return cli_data.run_in_process("sweep", "-c", path, "--cluster", "site.yaml", *arguments)


def jobs(path):
    """Return the newest job of each run, in order."""
    folders = sorted(p for p in (path.parent / "runs" / path.stem).glob("trial-*") if p.is_dir())
    return [Submission.read(run).jobs[-1] for run in folders]


def ended(path):
    """Wait until no job of the sweep is active; return the state of each."""

    def found():
        states = [client.show("job", job).get("JobState", "?") for job in jobs(path)]
        return states if not any(state in client.ACTIVE for state in states) else None

    return wait_for(found, seconds=1200, what="the array has ended")


def test_four_tasks_end_completed_and_two_run_at_a_time(lab, capsys):
    path = lab("four", searcher="grid", parameters={LR: [1e-3, 2e-3, 4e-3, 8e-3]})
    assert submit(path, "--max-concurrent", "2") == 0
    assert client.show("job", jobs(path)[0])["ArrayTaskThrottle"] == "2"
    assert submit(path) == 0
    assert "nothing is left to submit" in capsys.readouterr().out
    assert ended(path) == ["COMPLETED"] * 4
    folder = path.parent / "runs/four"
    for number, lr in enumerate((1e-3, 2e-3, 4e-3, 8e-3)):
        run = folder / f"trial-{number:03d}"
        assert sorted(cli_data.losses(run)) == [1, 2, 3, 4, 5, 6]
        config = yaml.safe_load((run / "config.yaml").read_text())
        assert config["model"]["init_args"]["optimizer"]["lr"] == lr
        assert read_attempts(run).finished
    # The last one to finish has left all of these.
    assert (folder / "results.csv").read_text().count("finished") == 4
    assert (folder / "sweep.png").exists() and (folder / "best.yaml").exists()
    capsys.readouterr()
    assert main(["sweep", "-c", str(path), "--status"]) == 0
    assert "4 trials: 4 finished; best is trial" in capsys.readouterr().out


def test_a_member_that_failed_is_run_again_alone(lab, capsys):
    """The second one names data that are not there yet."""
    path = lab("failing", searcher="grid", parameters={SHARDS: ["data/train", "data/late"]})
    assert submit(path) == 0
    assert ended(path) == ["COMPLETED", "FAILED"]
    before = jobs(path)
    assert main(["sweep", "-c", str(path), "--status"]) == 0
    out = capsys.readouterr().out
    assert "1 finished, 1 failed" in out
    assert "late" in (path.parent / "runs/failing/results.csv").read_text().splitlines()[2]
    shutil.copytree("data/train", "data/late")
    assert submit(path, "--retry-failed") == 0
    assert "1 of 2 runs" in capsys.readouterr().out
    assert ended(path) == ["COMPLETED", "COMPLETED"]
    after = jobs(path)
    assert after[0] == before[0] and after[1] != before[1]
    assert (path.parent / "runs/failing/results.csv").read_text().count("finished") == 2
    assert submit(path, "--retry-failed") == 0
    assert "no run of the sweep has failed" in capsys.readouterr().out


def test_optuna_shares_a_journal_and_a_lost_trial_is_taken_up_with_its_values(lab, capsys):
    pytest.importorskip("optuna")
    parameters = {LR: {"log_uniform": [1e-4, 1e-2]}}
    path = lab("drawn", searcher="optuna", trials=2, parameters=parameters)
    values = yaml.safe_load((path.parent / "tiny.yaml").read_text())
    values["trainer"]["max_steps"] = 30
    cli_data.write_yaml(path.parent / "tiny.yaml", values)
    assert submit(path) == 0
    first = path.parent / "runs/drawn/trial-000"
    wait_for(lambda: len(cli_data.losses(first)) > 2, seconds=900, what="the first run trains")
    drawn = (first / "submitted.yaml").read_text()
    # Ends the job at once, its shell too: nobody requeues it.
    client.run("scancel", "--signal=KILL", jobs(path)[0])
    assert ended(path) == ["CANCELLED", "COMPLETED"]
    capsys.readouterr()
    assert submit(path) == 0
    assert "1 of 2 runs" in capsys.readouterr().out
    assert ended(path) == ["COMPLETED", "COMPLETED"]
    assert (first / "submitted.yaml").read_text() == drawn
    assert sorted(cli_data.losses(first)) == list(range(1, 31))
    search = OptunaSearch(load(path), journal=SweepFolder(path.parent / "runs", "drawn").journal)
    trials = search.trials()
    assert [t.state for t in trials] == ["finished"] * 2
    assert len({t.values[LR] for t in trials}) == 2
