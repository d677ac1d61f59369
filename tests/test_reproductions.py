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
    summary = summary_of(tmp_path / "runs" / "kim2014-trec_rand")
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
    assert len(sweep.combinations()) == 18
    assert sweep.experiment == PAPERS / "scaling/pair.yaml"


@pytest.mark.slow
def test_a_run_is_predicted_then_made_then_compared(study, tmp_path, capsys):
    data = cli_data.write_data(tmp_path / "data")
    values = cli_data.experiment(data, tmp_path / "runs")
    files = {}
    for name, width, steps in (
        ("sweep", 16, 2),
        ("sweep", 16, 6),
        ("sweep", 32, 6),
        ("big", 32, 9),
    ):
        text = "model.init_args.towers.text.encoder.init_args.config.hidden_size"
        changes = {text: width, "trainer.max_steps": steps}
        path = tmp_path / f"{name}-{width}-{steps}.yaml"
        files[name] = cli_data.write_yaml(path, cli_data.changed(values, changes))
        if name == "sweep":
            run = ("--run.name", name, "--run.id", path.stem, "--run.test", "true")
            assert cli_data.run_in_process("fit", "-c", path, *run) == 0
    asked = ["predict", str(tmp_path / "runs/sweep"), "--larger", str(files["big"])]
    study.main(["--out", str(tmp_path), *asked, "--samples", "72"])
    said = json.loads((tmp_path / "prediction.json").read_text())
    runs = json.loads((tmp_path / "runs.json").read_text())
    assert [run["samples_seen"] for run in runs] == [16, 48, 48]
    assert runs[0]["gflop"] * 3 == pytest.approx(runs[1]["gflop"]) and runs[1] != runs[2]
    assert said["times_the_largest"] == pytest.approx(1.5)
    assert said["predicted"]["low"] < said["predicted"]["y"] < said["predicted"]["high"]

    run = ("--run.name", "big", "--run.test", "true")
    assert cli_data.run_in_process("fit", "-c", files["big"], *run) == 0
    capsys.readouterr()
    study.main(["--out", str(tmp_path), "compare", str(tmp_path / "runs/big")])
    reached = json.loads(capsys.readouterr().out)
    assert reached["gflop"] == pytest.approx(said["gflop"])
    assert reached["law_there"] == pytest.approx(said["predicted"]["y"])
    assert reached["inside"] == (
        said["predicted"]["low"] <= reached["test_loss"] <= said["predicted"]["high"]
    )
    assert (tmp_path / "scaling.png").is_file()
