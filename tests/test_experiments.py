"""The experiments on real data start as they stand; their scores stand in their headers."""

import json
from pathlib import Path

import cli_data
import pytest

PRETRAIN = Path(__file__).parents[1] / "experiments" / "pretrain"


@pytest.mark.parametrize("name", ["spoken_digits", "cifar10_captions"])
def test_experiment_takes_two_steps(name, shared_data, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[1])
    code = cli_data.run_in_process(
        *("fit", "-c", PRETRAIN / f"{name}.yaml", "--run.root", tmp_path, "--run.test", "false"),
        *("--trainer.max_steps", "2", "--pictures", "null"),
    )
    assert code == 0
    (run,) = (tmp_path / name).iterdir()
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["steps"] == 2
