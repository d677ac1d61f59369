import io
import re
import time

import pytest
import torch
from lightning.pytorch import Trainer
from rich.console import Console
from tiny_run import TinyData, TinyTask

from mmlight.callbacks.measuring.throughput import Throughput
from mmlight.callbacks.showing.progress import Progress, summarise_scores
from mmlight.costs.step_parts import PARTS


def fit(progress, *, task=None, **kwargs):
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[progress, Throughput()],
        enable_checkpointing=False,
        enable_model_summary=False,
        **{"max_steps": 20, "max_epochs": -1, "log_every_n_steps": 5, **kwargs},
    )
    trainer.fit(task or TinyTask(), datamodule=TinyData(num_samples=400))
    return trainer


def console(**kwargs):
    return Console(file=io.StringIO(), width=120, **kwargs)


def test_log_file_gets_a_line_per_tenth_and_the_validation(tmp_path):
    output = console()
    fit(Progress(output), val_check_interval=10, check_val_every_n_epoch=None)
    lines = output.file.getvalue().splitlines()
    training = [line for line in lines if line.startswith("train ")]
    assert len(training) == 10 and training[-1].startswith("train 20/20  100 %")
    assert "loss" in training[0] and "left" in training[0]
    assert [line.split(":")[0] for line in lines if "recall@1" in line] == ["step 10", "step 20"]
    assert "\x1b" not in output.file.getvalue()


def test_terminal_gets_a_bar(tmp_path):
    output = console(force_terminal=True)
    fit(Progress(output))
    text = output.file.getvalue()
    assert "20/20" in text and "100%" in text and "loss" in text and "\x1b" in text


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_evaluation_shows_its_batches(verb):
    output = console()
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[Progress(output)],
        enable_model_summary=False,
    )
    arguments = {} if verb == "predict" else {"verbose": False}
    getattr(trainer, verb)(TinyTask(), datamodule=TinyData(), **arguments)
    assert f"{verb} 3/3" in output.file.getvalue()


def test_other_ranks_show_nothing():
    output = console()
    progress = Progress(output)
    progress.disable()
    fit(progress)
    assert output.file.getvalue() == ""


@pytest.mark.parametrize("accumulated", [1, 3])
def test_the_loss_shown_is_the_mean_of_this_steps_batches(accumulated):
    output = console()
    losses = []

    class Task(TinyTask):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            losses.append(float(loss))
            return loss

    # log steps are seldom: what they hold is not what is shown
    more = {"accumulate_grad_batches": accumulated, "log_every_n_steps": 50}
    fit(Progress(output), task=Task(), max_steps=10, **more)
    lines = [line for line in output.file.getvalue().splitlines() if line.startswith("train ")]
    found = re.findall(r"train (\d+)/.*loss (\S+)", "\n".join(lines))
    shown = {int(step): float(loss) for step, loss in found}
    assert len(shown) == 10
    for step, loss in shown.items():
        batches = losses[accumulated * (step - 1) : accumulated * step]
        assert loss == pytest.approx(sum(batches) / accumulated, rel=1e-3)


def test_a_bar_reads_the_loss_twice_a_second_at_most():
    reads = []

    class Loss(torch.Tensor):
        def __float__(self):
            reads.append(1)
            return super().__float__()

    class Watch(Progress):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            outputs = {"loss": outputs["loss"].as_subclass(Loss)}
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    began = time.monotonic()
    fit(Watch(console(force_terminal=True)), max_steps=40)
    assert 2 <= len(reads) <= 2 + 2 * (time.monotonic() - began)  # the first and the last step


def test_throughput_leaves_validation_out(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(
        "mmlight.callbacks.measuring.throughput.time.perf_counter", lambda: clock[0]
    )

    class Task(TinyTask):
        def training_step(self, batch, batch_idx):
            clock[0] += 0.5
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch, batch_idx):
            clock[0] += 100.0
            super().validation_step(batch, batch_idx)

    throughput = Throughput()
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[throughput],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_steps=12,
        max_epochs=-1,
        log_every_n_steps=4,
        val_check_interval=6,
        check_val_every_n_epoch=None,
    )
    trainer.fit(Task(), datamodule=TinyData(num_samples=400))
    assert throughput.samples_per_s == pytest.approx(16.0)
    assert float(trainer.logged_metrics["train/samples_per_s"]) == pytest.approx(16.0)
    assert float(trainer.logged_metrics["train/peak_memory_mb"]) > 0
    assert float(trainer.logged_metrics["train/flop_share"]) > 0
    part_ms = {part: float(trainer.logged_metrics.get(f"train/{part}_ms", -1)) for part in PARTS}
    alone = {"forward": 500.0, "communication": -1.0}
    assert part_ms == pytest.approx(dict.fromkeys(PARTS, 0.0) | alone)


def test_summary_line_names_what_matters():
    line = summarise_scores(
        {
            "val/loss": 0.5,
            "val/image_to_text/recall_at_1": 0.25,
            "val/text_to_image/recall_at_1": 0.75,
            "val/image_to_text/recall_at_5": 0.9,
            "val/web/image_to_text/recall_at_1": 0.1,
            "val/zero_shot/image_accuracy_at_1": 0.5,
        }
    )
    assert line == (
        "val/loss 0.5  recall@1 50.0 % (mean of 2 directions)  zero_shot/image_accuracy_at_1 50.0 %"
    )


def test_summary_line_of_a_classifier_names_its_accuracy():
    scores = {"val/loss": 0.5, "val/accuracy": 0.75, "val/macro_f1": 0.7, "val/image/accuracy": 0.5}
    assert summarise_scores(scores) == "val/loss 0.5  accuracy 75.0 %"
