"""What was reproduced starts as it stands, and the scaling study says what it says."""

import importlib.util
import json
from pathlib import Path

import cli_data
import pytest

from mmlight.__main__ import main
from mmlight.runs.plan.sweep import load

ROOT = Path(__file__).parents[1]
PAPERS = ROOT / "experiments" / "papers"


def summary_of(folder):
    (run,) = folder.iterdir()
    return json.loads((run / "summary.json").read_text())


def test_kim_takes_two_steps(shared_data, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    tokenizer = tmp_path / "clean"
    train = ["tokenizer", "train", "--shards", "../shared/data/trec/train", "--kind", "clean"]
    assert main([*train, "--vocab-size", "20000", "--out", str(tokenizer)]) == 0
    path = "--data.init_args.text.tokenizer.init_args.path"
    code = cli_data.run_in_process(
        *("fit", "-c", PAPERS / "kim2014/trec_rand.yaml", "--run.root", tmp_path / "runs"),
        *("--trainer.max_steps", "2", path, tokenizer, "--run.test", "false"),
        *("--checkpoint.monitor", "null", "--run.test_with", "last"),
        *("--trainer.limit_val_batches", "1"),
    )
    assert code == 0
    summary = summary_of(tmp_path / "runs" / "kim2014_trec_rand")
    assert summary["status"] == "finished"
    # 9,274 words in training: all vectors are used, and no other.
    assert summary["parameters"]["total"] == 9274 * 300 + 300 * 300 * 4 + 300 + 300 * 6 + 6


def test_piczak_takes_two_steps(shared_data, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    code = cli_data.run_in_process(
        *("fit", "-c", PAPERS / "piczak2015/esc10_short.yaml", "--run.root", tmp_path),
        *("--trainer.max_steps", "2", "--data.global_batch_size", "4"),
    )
    assert code == 0
    assert summary_of(tmp_path / "esc10_short")["status"] == "finished"


@pytest.fixture
def study():
    spec = importlib.util.spec_from_file_location("study", PAPERS / "scaling/study.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_study_of_a_table_ships_its_laws_and_a_picture(study, tmp_path, capsys):
    columns = ["lr", "gmacs_total", *study.TARGETS]
    rows = [
        [lr, gmacs, *(1 - 5 * gmacs**-0.1 for _ in study.TARGETS)]
        for lr, gmacs in [*((1e-3, 10 ** (10 + n / 4)) for n in range(12)), ("", 1e11), ("", 1e12)]
    ]
    table = "\n".join(",".join(map(str, row)) for row in [columns, *rows])
    (tmp_path / "table.csv").write_text(table)
    study.main(["--out", str(tmp_path), "published", str(tmp_path / "table.csv")])
    laws = json.loads((tmp_path / "published.json").read_text())
    assert laws["imagenet1k_top1"]["OpenAI"]["law"]["exponent"] == pytest.approx(0.1)
    assert "5 C^-0.1" in capsys.readouterr().out
    assert (tmp_path / "published.png").is_file()


def test_the_sweep_varies_width_samples_and_batch():
    sweep = load(PAPERS / "scaling/sweep.yaml")
    assert len(sweep.combinations()) == 27
    assert sweep.experiment == PAPERS / "scaling/pair.yaml"
