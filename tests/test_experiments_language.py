"""The experiments of language models start as they stand, where their data is."""

import json
from pathlib import Path

import cli_data
import pytest

from mmlight.tasks.load import load_task

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


def two_steps(path, folder, *more):
    """Take two steps of an experiment; return its run."""
    code = cli_data.run_in_process(
        *("fit", "-c", ROOT / "experiments" / path, "--run.root", folder, "--run.test", "false"),
        *("--trainer.max_steps", "2", "--trainer.limit_val_batches", "1", *more),
    )
    assert code == 0
    (run,) = (folder / Path(path).stem).iterdir()
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "finished" and summary["steps"] == 2
    return run


@pytest.mark.parametrize("name", ["shakespeare_char", "shakespeare_char_gpu"])
def test_shakespeare_is_learnt_by_both_recipes(name, shared_data, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    cpu = ("--trainer.accelerator", "cpu", "--trainer.precision", "32-true")
    run = two_steps(f"pretrain/{name}.yaml", tmp_path, *cpu, "--trainer.val_check_interval", "1")
    width = {"shakespeare_char": 128, "shakespeare_char_gpu": 384}[name]
    assert load_task(run).decoder.out_dim == width


def test_instructions_then_preferences(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    if not (ROOT / "data/scenes/tokenizer").is_dir():
        pytest.skip("no data/scenes (experiments/data/scenes.yaml)")
    taught = two_steps("finetune/instruct_scenes.yaml", tmp_path)
    tower = ("--model.towers.text.from_run", taught)
    tuned = two_steps("finetune/preference_scenes.yaml", tmp_path, *tower)
    given = ("--prompt", "red square left cyan triangle", "--max_new_tokens", "3")
    assert cli_data.run_in_process("generate", "--model", tuned, *given) == 0
    assert "red square left cyan triangle" in capsys.readouterr().out
