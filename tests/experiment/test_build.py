"""Experiments built by a program: the one of the README, as a script and in a notebook."""

import json
import re
import subprocess
import sys
from pathlib import Path

import cli_data
import pytest

from mmlight.errors import UserError
from mmlight.experiment.build import assemble, build

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
(PROGRAM,) = (block for block in BLOCKS if "mmlight.experiment" in block)


@pytest.fixture
def path(tmp_path):
    values = cli_data.experiment(cli_data.write_data(tmp_path / "data"), tmp_path / "runs")
    return cli_data.write_yaml(tmp_path / "experiments/pretrain/scenes.yaml", values)


def test_an_experiment_is_built_then_run(path):
    experiment = build("fit", ["-c", str(path), "--trainer.max_steps", "1", "--run.id", "one"])
    assert experiment.config["trainer"]["max_steps"] == experiment.trainer.max_steps == 1
    assert (experiment.name, experiment.folder.id) == ("scenes", "one")
    assert type(experiment.task).__name__ == "Contrastive"
    assert experiment.data.global_batch_size == 8
    assert experiment.run() == 0
    assert experiment.trainer.global_step == 1
    assert json.loads((experiment.folder.path / "summary.json").read_text())["status"] == "finished"


def test_each_experiment_of_a_process_is_a_run_of_its_own(path, monkeypatch):
    monkeypatch.delenv("MMLIGHT_RUN_ID", raising=False)
    short = ["-c", str(path), "--trainer.max_steps", "1", "--trainer.limit_val_batches", "0"]
    ids = []
    for _ in range(2):
        experiment = build("fit", short)
        experiment.run()
        ids.append(experiment.folder.id)
    assert len(set(ids)) == 2


def test_without_a_trainer_no_run_is_begun(path, tmp_path):
    experiment = assemble("fit", ["-c", str(path)])
    assert not hasattr(experiment, "trainer") and not (tmp_path / "runs").exists()


def test_a_mistake_is_one_line_and_leaves_no_run(path, tmp_path):
    with pytest.raises(UserError, match=r"unknown key `model\.embed_dmi`"):
        build("fit", ["-c", str(path), "--model.embed_dmi", "1"])
    with pytest.raises(UserError, match="trainer: "):
        build("fit", ["-c", str(path), "--trainer.accelerator", "abacus"])
    assert not list(tmp_path.glob("runs/*/*"))


def test_the_program_of_the_readme_is_short_and_runs(path, tmp_path, monkeypatch, capsys):
    assert len(PROGRAM.splitlines()) < 15
    monkeypatch.chdir(tmp_path)
    exec(compile(PROGRAM, "README.md", "exec"), {})
    assert "mmlight.tasks.contrastive.Contrastive" in capsys.readouterr().out


@pytest.mark.slow
def test_the_program_of_the_readme_runs_in_a_notebook(path, tmp_path):
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("nbconvert")
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(part) for part in PROGRAM.split("\n\n")]
    nbformat.write(notebook, tmp_path / "program.ipynb")
    convert = ["nbconvert", "--to", "notebook", "--execute", "--output", "done", "program.ipynb"]
    done = subprocess.run(
        [sys.executable, "-m", "jupyter", *convert],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    cells = nbformat.read(tmp_path / "done.ipynb", as_version=4).cells
    assert "test/loss" in PROGRAM and "tensor(" in cells[-1].outputs[-1].text
