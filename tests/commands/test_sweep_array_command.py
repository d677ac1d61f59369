"""`mmlight sweep --cluster`, as far as it needs no SLURM."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cli_data
import pytest
import yaml

from mmlight.__main__ import main
from mmlight.commands import sweep_array
from mmlight.runs.plan.configs import freeze
from mmlight.runs.plan.optuna_search import OptunaSearch
from mmlight.runs.plan.results import SweepFolder
from mmlight.runs.plan.status import main as status_main
from mmlight.runs.plan.status import record_results
from mmlight.runs.plan.sweep import load

LR = "model.init_args.optimizer.lr"


@pytest.fixture
def sweep_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = cli_data.write_data(tmp_path / "data")
    cli_data.write_yaml(tmp_path / "tiny.yaml", cli_data.experiment(data, tmp_path / "runs"))
    cli_data.write_yaml(tmp_path / "site.yaml", {"time": "01:00:00", "cpus_per_task": 2})

    def write(**changes):
        given = {
            "experiment": "tiny.yaml",
            "parameters": {LR: [1e-3, 1e-2], "model.init_args.embed_dim": [8, 4]},
            "searcher": "grid",
            "metric": "val/loss",
        }
        values = {k: v for k, v in (given | changes).items() if v is not None}
        return str(cli_data.write_yaml(tmp_path / "mine.yaml", values))

    return write


@pytest.fixture
def no_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))


def test_dry_run_prints_one_array_and_writes_nothing(sweep_file, capsys, tmp_path, no_slurm):
    arguments = ["sweep", "-c", sweep_file(), "--cluster", "site.yaml", "--max-concurrent", "2"]
    assert main([*arguments, "--dry-run", "--cluster.time", "02:00:00"]) == 0
    script = capsys.readouterr().out
    for line in (
        "#SBATCH --array=0-3%2",
        "#SBATCH --time=02:00:00",
        "ids=(trial-000 trial-001 trial-002 trial-003)",
    ):
        assert line in script.splitlines()
    assert "sweep_array" not in script
    assert not (tmp_path / "runs").exists()


def test_a_script_that_draws_values_passes_shellcheck(sweep_file, capsys, tmp_path):
    pytest.importorskip("optuna")
    shellcheck = shutil.which("shellcheck", path=Path(sys.executable).parent)
    if shellcheck is None:
        pytest.skip("no shellcheck beside this Python")
    path = sweep_file(searcher="optuna", trials=3, seeds=[0, 1])
    assert main(["sweep", "-c", path, "--cluster", "site.yaml", "--dry-run"]) == 0
    script = capsys.readouterr().out
    assert "#SBATCH --array=0-5" in script and "sweep_array" in script
    (tmp_path / "job.sh").write_text(script)
    checked = subprocess.run([shellcheck, "job.sh"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_without_slurm_one_line_says_so(sweep_file, capsys, no_slurm):
    assert main(["sweep", "-c", sweep_file(), "--cluster", "site.yaml"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert (
        "SLURM is not on this machine" in said and "without --cluster the sweep runs here" in said
    )


@pytest.mark.parametrize(
    ("changes", "arguments", "said"),
    [
        ({}, ["--max-concurrent", "2"], "--max-concurrent is for a SLURM array: give --cluster"),
        ({}, ["--cluster.time", "10"], "--cluster.time is for a SLURM array"),
        ({}, ["--cluster", "site.yaml", "--max-concurrent", "0"], "must be 1 or more"),
        ({}, ["--cluster", "site.yaml", "--status"], "--cluster submits the sweep"),
        (
            {"parameters": {"trainer.devices": [1, 2]}},
            ["--cluster", "site.yaml", "--dry-run"],
            "parameters.trainer.devices: the runs of one SLURM array have the same machines",
        ),
        (
            {"searcher": "optuna", "trials": 2, "prune": True},
            ["--cluster", "site.yaml", "--dry-run"],
            "prune: true needs one process that watches all runs",
        ),
        ({}, ["--status"], "there is no sweep in"),
    ],
)
def test_what_has_no_effect_is_refused(sweep_file, capsys, changes, arguments, said):
    assert main(["sweep", "-c", sweep_file(**changes), *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.fixture
def drawn(sweep_file, tmp_path):
    """What a submission with Optuna leaves for its jobs."""
    pytest.importorskip("optuna")
    sweep = load(tmp_path / sweep_file(searcher="optuna", trials=2, seeds=[3, 4]))
    folder = SweepFolder(tmp_path / "runs", "mine")
    folder.open(sweep)
    experiment = freeze(sweep.experiment, folder.path / "slurm")
    given = {**sweep.given, "experiment": str(experiment.relative_to(folder.path / "slurm"))}
    cli_data.write_yaml(folder.path / "slurm/sweep.yaml", given)
    base = cli_data.experiment(tmp_path / "data", tmp_path / "runs")
    base["data"]["init_args"]["seed"] = 0
    base["run"] |= {"name": "mine", "id": "any"}
    cli_data.write_yaml(folder.path / "slurm/base.yaml", base)
    OptunaSearch(sweep, journal=folder.journal).reserve(2)
    return sweep, folder


def finish(folder, run_id, loss):
    final = {"val/loss": loss}
    summary = {"status": "finished", "error": None, "final": final, "best": {}, "wall_s": 60}
    (folder.path / run_id / "summary.json").write_text(json.dumps(summary))


def test_a_run_draws_its_values_when_it_begins_and_keeps_them(drawn):
    _, folder = drawn
    config = folder.path / "trial-001-seed4/submitted.yaml"
    assert sweep_array.draw([str(folder.path), "trial-001-seed4"]) == 0
    first = config.read_text()
    values = yaml.safe_load(first)
    assert values["seed_everything"] == values["data"]["init_args"]["seed"] == 4
    assert values["run"]["id"] == "trial-001-seed4"
    assert sweep_array.draw([str(folder.path), "trial-001-seed3"]) == 0
    other = yaml.safe_load((folder.path / "trial-001-seed3/submitted.yaml").read_text())
    assert other["model"] == values["model"] and other["seed_everything"] == 3
    assert sweep_array.draw([str(folder.path), "trial-001-seed4"]) == 0
    assert config.read_text() == first


def test_whoever_finishes_writes_the_table_and_the_last_one_the_plot(drawn, capsys):
    sweep, folder = drawn
    for run_id in ("trial-000-seed3", "trial-000-seed4", "trial-001-seed3", "trial-001-seed4"):
        sweep_array.draw([str(folder.path), run_id])
    finish(folder, "trial-000-seed3", 2.0)
    finish(folder, "trial-000-seed4", 4.0)
    finish(folder, "trial-001-seed3", 1.0)
    assert status_main([str(folder.path)]) == 0
    assert "best is trial 0: val/loss 3" in capsys.readouterr().out
    assert "trial 0" in folder.best_yaml.read_text()
    assert not (folder.path / "sweep.png").exists()
    finish(folder, "trial-001-seed4", 1.5)
    assert status_main([str(folder.path)]) == 0
    assert "2 trials: 2 finished; best is trial 1: val/loss 1.25" in capsys.readouterr().out
    assert (folder.path / "sweep.png").exists()
    search = OptunaSearch(sweep, journal=folder.journal)
    assert [t.state for t in search.trials()] == ["finished", "finished"]  # told to Optuna, too
    assert [r.score for r in record_results(sweep, folder)] == [3.0, 1.25]
