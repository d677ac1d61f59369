"""What the verbs of the command line leave behind, on tiny real data."""

import csv
import json
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import cli_data
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from mmlight.interop.embedder import Embedder
from mmlight.runs.run.folder import Run
from mmlight.runs.wandb.file import read_segment


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A run of six steps by an experiment that extends another: its YAML and its folder."""
    folder = tmp_path_factory.mktemp("first")
    data = cli_data.write_data(folder / "data")
    cli_data.write_yaml(folder / "base.yaml", cli_data.experiment(data, folder / "runs"))
    path = cli_data.write_yaml(
        folder / "tiny.yaml",
        {
            "extends": "base.yaml",
            "model": {"init_args": {"towers": {"image": {"projection": "mlp"}}}},
            "run": {"test": True},
            "zero_shot": {"templates": ["{} 1", "a {} one"]},
            "pictures": {"num_samples": 4, "num_queries": 1, "projection": "pca"},
        },
    )
    assert cli_data.run_in_process("fit", "-c", path) == 0
    return path, cli_data.only_run(folder / "runs")


def test_each_row_is_of_a_step_that_is_done_where_batches_accumulate(first, tmp_path):
    path, _ = first
    code = cli_data.run_in_process(
        *("fit", "-c", path, "--run.root", tmp_path, "--trainer.max_steps", "3"),
        *("--trainer.accumulate_grad_batches", "2", "--trainer.log_every_n_steps", "1"),
        *("--pictures", "null", "--zero_shot", "null", "--run.test", "false"),
    )
    assert code == 0
    assert sorted(cli_data.losses(cli_data.only_run(tmp_path))) == [1, 2, 3]


def test_help_is_quick_and_imports_no_torch():
    code = (
        "import sys\nfrom mmlight.__main__ import main\nmain(['--help'])\n"
        "heavy = {'torch', 'lightning', 'transformers', 'timm', 'wandb'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    for verb in ("fit", "validate", "test", "predict", "shards", "tokenizer", "scenes"):
        assert verb in done.stdout
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 1.0


def test_fit_writes_everything_into_one_folder(first):
    _, run = first
    for name in ("config.yaml", "metrics.csv", "metrics.jsonl", "summary.json", "report.html"):
        assert (run / name).stat().st_size > 0
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["step-00000006.ckpt"]
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows if row["train/loss"]] == [1, 2, 3, 4, 5, 6]
    assert float(next(r for r in rows if r["step"] == "5")["val/image_to_text/recall_at_1"]) >= 0


def test_summary_says_what_ran_and_what_came_out(first):
    _, run = first
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["error"], summary["steps"]) == ("finished", None, 6)
    assert summary["seed"] == 0
    assert summary["samples_per_s"] > 0
    assert summary["packages"]["torch"]
    assert re.fullmatch(r"[0-9a-f]{40}", summary["git"]["commit"])
    assert isinstance(summary["git"]["dirty"], bool)
    cursor = summary["data"]["cursor"]
    assert (cursor["epoch"], cursor["step"], cursor["global_batch_size"]) == (1, 1, 8)
    assert summary["checkpoints"]["last"] == "checkpoints/step-00000006.ckpt"
    for stage in ("val", "test"):
        assert f"{stage}/text_to_audio/recall_at_5" in summary["final"]
        for modality in ("image", "audio"):
            assert 0 <= summary["final"][f"{stage}/zero_shot/{modality}_accuracy_at_1"] <= 1


def test_pictures_are_in_a_report_that_needs_no_network(first):
    _, run = first
    drawn = {path.name for path in (run / "plots").glob("*.png")}
    assert {"curves.png", "val_spectrograms.png", "test_similarity_image_text.png"} <= drawn
    report = (run / "report.html").read_text()
    assert report.count("data:image/png;base64,") >= len(drawn)
    assert re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?\s*(?:https?:)?//[^"')]*""", report) == []
    assert re.findall(r"https?://\S+", re.sub(r"data:[^\"')]+", "", report)) == []


def test_overlay_of_a_tower_keeps_what_it_does_not_name(first):
    _, run = first
    towers = yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]["towers"]
    image = towers["image"]
    assert image["projection"] == "mlp"
    assert image["encoder"]["init_args"]["img_size"] == 16
    assert towers["text"]["projection"] is None  # a linear one
    assert towers["audio"]["encoder"]["class_path"] == "mmlight.encoders.mel_timm.MelTimm"


def test_saved_config_runs_again_in_a_folder_of_its_own_with_equal_losses(first):
    _, run = first
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    others = set(run.parent.iterdir())
    assert "extends" not in yaml.safe_load((run / "config.yaml").read_text())
    assert cli_data.run_in_process("fit", "-c", run / "config.yaml", "--pictures", "null") == 0
    (again,) = set(run.parent.iterdir()) - others
    assert cli_data.losses(again) == cli_data.losses(run)
    assert len(cli_data.losses(run)) == 6
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()} == before
    ours, theirs = (yaml.safe_load((folder / "config.yaml").read_text()) for folder in (run, again))
    assert ours | {"pictures": None} == theirs


def test_last_goes_on_in_the_same_folder_with_the_settings_asked_for(first, tmp_path):
    path, run = first
    (copied := tmp_path / "runs/tiny/one").parent.mkdir(parents=True)
    subprocess.run(["cp", "-a", str(run), str(copied)], check=True)
    arguments = ("--trainer.max_steps", "8", "--model.init_args.optimizer.lr", "0.02")
    code = cli_data.run_in_process(
        *("fit", "-c", path, "--ckpt_path", "last", "--run.root", tmp_path / "runs"),
        *("--run.test", "false", "--pictures", "null", *arguments),
    )
    assert code == 0
    assert cli_data.only_run(tmp_path / "runs") == copied
    rows = [json.loads(line) for line in (copied / "metrics.jsonl").read_text().splitlines()]
    rates = {row["step"]: row["train/lr"] for row in rows if "train/lr" in row}
    assert sorted(cli_data.losses(copied)) == list(range(1, 9))
    assert rates[max(rates)] == pytest.approx(0.02)
    before, after = cli_data.losses(run), cli_data.losses(copied)
    assert {step: after[step] for step in before} == before
    assert (copied / "checkpoints/step-00000008.ckpt").is_file()


def test_evaluation_of_a_checkpoint_agrees_with_training(first):
    path, run = first
    trained = json.loads((run / "summary.json").read_text())
    (checkpoint,) = (run / "checkpoints").glob("*.ckpt")
    others = set(run.parent.iterdir())
    code = cli_data.run_in_process(
        "test", "-c", path, "--ckpt_path", checkpoint, "--pictures", "null"
    )
    assert code == 0
    (evaluation,) = set(run.parent.iterdir()) - others
    again = json.loads((evaluation / "summary.json").read_text())["final"]
    scores = {k: v for k, v in trained["final"].items() if k.startswith("test/")}
    assert scores == {k: pytest.approx(again[k], abs=1e-6) for k in scores}


def test_validate_last_writes_below_the_run(first, tmp_path):
    path, run = first
    copied = tmp_path / "runs/tiny/one"
    copied.parent.mkdir(parents=True)
    subprocess.run(["cp", "-a", str(run), str(copied)], check=True)
    before = (copied / "summary.json").read_text()
    root = ("--run.root", tmp_path / "runs", "--pictures", "null")
    assert cli_data.run_in_process("validate", "-c", path, "--ckpt_path", "last", *root) == 0
    assert (copied / "summary.json").read_text() == before
    assert (copied / "validate/report.html").is_file()
    final = json.loads((copied / "validate/summary.json").read_text())["final"]
    assert {f"val/{q}_to_{g}/recall_at_1" for q in _MODALITIES for g in _MODALITIES if q != g} <= (
        final.keys()
    )


_MODALITIES = ("image", "text", "audio")


def test_predict_last_writes_what_embedder_gives(first, tmp_path):
    path, run = first
    copied = tmp_path / "runs/tiny/one"
    copied.parent.mkdir(parents=True)
    subprocess.run(["cp", "-a", str(run), str(copied)], check=True)
    root = ("--run.root", tmp_path / "runs")
    assert cli_data.run_in_process("predict", "-c", path, "--ckpt_path", "last", *root) == 0
    rows = pq.read_table(copied / "predict/embeddings/part-00000.parquet").to_pylist()
    numbers = range(50, 58)
    assert [row["key"].rpartition("/")[2] for row in rows] == [f"{n:04d}" for n in numbers]
    assert [row["label"] for row in rows] == [n % 4 for n in numbers]
    samples = [cli_data.make_sample(n) for n in numbers]
    embedder = Embedder.load(copied)
    captions = [sample["txt"].decode() for sample in samples]
    assert [row["caption"] for row in rows] == captions
    wanted = {
        "image": embedder.images([sample["png"] for sample in samples]),
        "text": embedder.texts(captions),
        "audio": embedder.sounds([sample["flac"] for sample in samples]),
    }
    for name, features in wanted.items():
        written = np.array([row[name] for row in rows])
        np.testing.assert_allclose(written, features.numpy(), atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(written, axis=1), 1, atol=1e-5)


def test_offline_wandb_keeps_the_run_and_its_nested_config_in_the_folder(
    first, tmp_path, monkeypatch
):
    path, _ = first
    for name in [n for n in os.environ if n.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    code = cli_data.run_in_process(
        *("fit", "-c", path, "--run.wandb", "offline", "--run.root", tmp_path / "runs"),
        *("--trainer.max_steps", "2", "--run.test", "false", "--pictures", "null"),
    )
    assert code == 0
    run = cli_data.only_run(tmp_path / "runs")
    (log,) = (run / "wandb").glob("offline-run-*/*.wandb")
    assert log.name == f"run-{Run(run).wandb_id()}.wandb"
    config = {}
    # W&B's own process writes the file, a little later where the machine is busy.
    deadline = time.monotonic() + 30
    while "provenance" not in config and time.monotonic() < deadline:
        config = _wandb_config(log)
        time.sleep(0.1)
    assert config["model"]["init_args"]["towers"]["image"]["projection"] == "mlp"
    assert config["provenance"]["git"]["commit"]


def _wandb_config(log: Path) -> dict:
    from wandb.proto import wandb_internal_pb2

    config = {}
    for data in read_segment(log).records:
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        for update in (record.run.config, record.config):
            for item in update.update:
                config[item.key or item.nested_key[0]] = json.loads(item.value_json)
    return config
