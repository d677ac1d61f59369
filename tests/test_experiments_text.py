"""The text experiments start as they stand, where their data and weights are."""

import json
from pathlib import Path

import cli_data
import pytest

ROOT = Path(__file__).parents[1]
FINETUNE = ROOT / "experiments" / "finetune"

pytestmark = pytest.mark.slow


def two_steps(name, folder, *more):
    """Take two steps of an experiment; return its run's summary."""
    code = cli_data.run_in_process(
        *("fit", "-c", FINETUNE / f"{name}.yaml", "--run.root", folder, "--run.test", "false"),
        *("--trainer.max_steps", "2", "--trainer.limit_val_batches", "1", *more),
    )
    assert code == 0
    (run,) = (folder / name).iterdir()
    return json.loads((run / "summary.json").read_text())


@pytest.mark.parametrize(
    "name", ["sst2_minilm", "sst2_minilm_lora", "trec_minilm", "wnut17_minilm"]
)
def test_experiments_with_minilm_take_two_steps(name, shared_data, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    if not (ROOT / "data" / "minilm").is_dir():
        pytest.skip("no weights in data/minilm (experiments/towers/text_minilm.yaml)")
    summary = two_steps(name, tmp_path)
    assert summary["status"] == "finished" and summary["steps"] == 2


def test_the_tokenizer_of_trec_is_trained_by_its_command(shared_data, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    tokenizer = tmp_path / "tokenizer"
    header = (FINETUNE / "trec_scratch.yaml").read_text().replace("\\\n#", "")
    command = next(line for line in header.splitlines() if "mmlight tokenizer" in line)
    words = command.partition("mmlight ")[2].split()
    words[words.index("--out") + 1] = str(tokenizer)
    assert cli_data.run_in_process(*words) == 0
    path = "--data.text.tokenizer.init_args.path"
    summary = two_steps("trec_scratch", tmp_path / "runs", path, tokenizer)
    assert summary["status"] == "finished" and summary["steps"] == 2


def test_a_masked_language_model_goes_on_in_trec(shared_data, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    tokenizer = tmp_path / "tokenizer"
    pretrain = ROOT / "experiments/pretrain/mlm_small_bert.yaml"
    header = pretrain.read_text().replace("\\\n#", "")
    command = next(line for line in header.splitlines() if "mmlight tokenizer" in line)
    words = command.partition("mmlight ")[2].split()
    words[words.index("--out") + 1] = str(tokenizer)
    assert cli_data.run_in_process(*words) == 0
    mine = ("--data.text.tokenizer.init_args.path", tokenizer)
    runs = tmp_path / "runs"
    code = cli_data.run_in_process(
        *("fit", "-c", pretrain, "--run.root", runs, "--run.test", "false", *mine),
        *("--trainer.max_steps", "2", "--trainer.limit_val_batches", "1"),
        *("--trainer.val_check_interval", "2"),
    )
    assert code == 0
    (run,) = (runs / "mlm_small_bert").iterdir()
    told = ("--model.towers.text.from_run", run)
    assert two_steps("trec_few_mlm", tmp_path / "few", *told)["steps"] == 2
    assert two_steps("trec_few_scratch", tmp_path / "few", *mine)["steps"] == 2
