import csv
import json
import time

import git_data
import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from tiny_run import TinyData, TinyTask

from mmlight.callbacks.measuring.throughput import Throughput
from mmlight.callbacks.recording.record import Record
from mmlight.runs.code import provenance
from mmlight.runs.run.folder import Run
from mmlight.trainer.wandb_run import WandbRun

CONFIG = {"seed_everything": 3, "model": {"towers": {"image": {"width": 8}}}}


class Stop(Callback):
    """Breaks training off as a user's Ctrl-C does."""

    def __init__(self, at):
        self.at = at

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == self.at:
            raise KeyboardInterrupt


def run_record(folder, *, steps=12, ckpt_path=None, extra=(), module=None, wandb="off", **kwargs):
    run = Run(folder / "tiny" / "one")
    run.path.mkdir(parents=True, exist_ok=True)
    logger = None if wandb == "off" else WandbRun(run, mode=wandb, config=CONFIG)
    record = Record(run, verb="fit", config=CONFIG, wandb=logger)
    checkpoint = ModelCheckpoint(run.checkpoints, every_n_train_steps=5, save_last=True)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        log_every_n_steps=2,
        val_check_interval=4,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=1,
        logger=record.loggers(),
        callbacks=[record, Throughput(), checkpoint, *extra],
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=run.path,
        **kwargs,
    )
    module = module or TinyTask()
    trainer.fit(module, datamodule=TinyData(), ckpt_path=ckpt_path, weights_only=True)
    return run, record, trainer


def read(run):
    return json.loads(run.summary_json.read_text())


def test_run_folder_is_complete(tmp_path):
    run, _, trainer = run_record(tmp_path)
    summary = read(run)
    assert yaml.safe_load(run.config_yaml.read_text()) == CONFIG
    assert summary["status"] == "finished" and summary["error"] is None
    assert (summary["steps"], summary["samples_seen"], summary["seed"]) == (12, 96, 3)
    assert summary["final"]["val/loss"] == float(trainer.callback_metrics["val/loss"])
    rows = [json.loads(line) for line in run.metrics_jsonl.open()]
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert summary["best"]["train/loss"]["value"] == min(losses)
    recalls = {r["step"]: r["val/image_to_audio/recall_at_1"] for r in rows if "val/loss" in r}
    assert sorted(recalls) == [4, 8, 12]
    assert summary["best"]["val/image_to_audio/recall_at_1"]["value"] == max(recalls.values())
    size = sum(p.numel() for p in trainer.lightning_module.parameters())
    assert summary["parameters"] == {"total": size, "trained": size}
    assert summary["samples_per_s"] > 0 and summary["wall_s"] > 0
    assert summary["peak_memory_mb"]["process"] > 100
    assert summary["data"] == {
        "fingerprint": {"train": "f" * 64},
        "cursor": {"version": 1, "step": 12},
    }
    assert (run.path / summary["checkpoints"]["last"]).is_file()
    assert summary["packages"]["torch"] and summary["host"] and "git" in summary


def test_logged_steps_are_optimiser_steps_done(tmp_path):
    run, _, _ = run_record(tmp_path, accumulate_grad_batches=2, steps=8)
    lines = list(csv.DictReader(run.metrics_csv.open()))
    assert [int(line["step"]) for line in lines if line["train/loss"]] == [2, 4, 6, 8]
    assert [int(line["samples"]) for line in lines] == [16 * int(line["step"]) for line in lines]


def test_resumed_run_continues_the_table_with_every_step_once(tmp_path):
    whole, _, _ = run_record(tmp_path / "whole", steps=14)
    with pytest.raises(SystemExit):
        run_record(tmp_path / "parts", steps=14, extra=[Stop(9)])
    run = Run(tmp_path / "parts" / "tiny" / "one")
    assert read(run)["status"] == "interrupted" and read(run)["steps"] == 9
    last = run.checkpoints / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 5
    run, _, _ = run_record(tmp_path / "parts", steps=14, ckpt_path=last)
    assert read(run)["status"] == "finished" and read(run)["steps"] == 14
    steps = [line["step"] for line in csv.DictReader(run.metrics_csv.open())]
    assert steps == [line["step"] for line in csv.DictReader(whole.metrics_csv.open())]


def test_failure_is_in_the_summary_as_one_line(tmp_path):
    with pytest.raises(ArithmeticError):
        run_record(tmp_path, module=TinyTask(fail_at=7))
    summary = read(Run(tmp_path / "tiny" / "one"))
    assert summary["status"] == "failed" and summary["steps"] == 7
    assert summary["error"] == "ArithmeticError: the loss went away"
    assert summary["final"]["train/loss"] > 0


def test_test_after_training_joins_its_summary_and_report(tmp_path, capsys):
    run, record, trainer = run_record(tmp_path)
    trainer.test(trainer.lightning_module, datamodule=trainer.datamodule, verbose=False)
    final = read(run)["final"]
    assert "test/loss" in final and "val/loss" in final and read(run)["verb"] == "fit"
    assert read(run)["steps"] == 12
    record.conclude(trainer)
    printed = capsys.readouterr().out
    assert "test: image → audio" in printed and f"report: {run.report}\n" in printed
    assert "test: image → audio" in run.report.read_text()


def test_offline_wandb_gets_config_once_and_every_row(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    run, record, trainer = run_record(tmp_path, wandb="offline")
    wandb_run = record.loggers()[1].experiment
    config, summary = dict(wandb_run.config), dict(wandb_run.summary)
    assert wandb_run.id == run.wandb_id() and wandb_run.group == "tiny" and wandb_run.offline
    assert config["model"] == CONFIG["model"]
    assert config["provenance"]["data"]["fingerprint"] == {"train": "f" * 64}
    assert not any("/" in key for key in config)
    assert summary["trainer/global_step"] == 12 and summary["samples"] == 96
    assert summary["val/loss"] == read(run)["final"]["val/loss"]
    assert "best/val/loss" in summary and summary["status"] == "finished"
    record.conclude(trainer)
    files = list((run.path / "wandb").glob(f"offline-run-*/run-{run.wandb_id()}.wandb"))
    assert len(files) == 1
    # W&B's own process writes the file, a little later where the machine is busy.
    deadline = time.monotonic() + 30
    while files[0].stat().st_size < 1000 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert files[0].stat().st_size > 1000


@pytest.mark.parametrize(
    ("sent", "tracked", "new"), [("tracked", True, False), ("all", True, True), ("none", 0, 0)]
)
def test_wandb_gets_of_uncommitted_code_what_is_asked_for(
    tmp_path, monkeypatch, sent, tracked, new
):
    code = git_data.make_repository(tmp_path / "code", {"a.txt": "one\n"})
    (code / "a.txt").write_text("changed\n")
    (code / "notes.txt").write_text("API_KEY=secret\n")
    monkeypatch.setattr(provenance, "code_folder", lambda: code)
    run = Run(tmp_path / "tiny" / "one")
    wandb = WandbRun(run, mode="offline", config={}, patch=sent)
    described = []
    monkeypatch.setattr(wandb, "describe", described.append)
    record = Record(run, verb="fit", config=CONFIG, wandb=wandb)
    trainer = Trainer(accelerator="cpu", logger=record.loggers(), enable_checkpointing=False)
    record.setup(trainer, TinyTask(), "fit")
    patch = described[0]["patch"] or ""
    assert ("changed" in patch, "API_KEY" in patch) == (tracked, new)
    assert "API_KEY" in run.patch.read_text()  # the folder keeps all
