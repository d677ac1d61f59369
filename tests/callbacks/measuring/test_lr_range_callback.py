"""The learning rates of a range test, group by group."""

from types import SimpleNamespace

import pytest
import torch
from lightning import Trainer
from tiny_run import TinyData, TinyTask
from torch.optim.lr_scheduler import LambdaLR

from mmlight.callbacks.measuring.short_runs import LrRange


class TwoRates(TinyTask):
    """The text tower learns at a tenth of the rate; a schedule halves all of them."""

    def __init__(self):
        super().__init__()
        self.optimizer_settings = SimpleNamespace(lr=1e-3)
        self.used = []

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(
            [
                {"params": [*self.image.parameters(), *self.audio.parameters()], "lr": 1e-3},
                {"params": self.text.parameters(), "lr": 1e-4},
            ]
        )
        scheduler = LambdaLR(optimizer, lambda step: 0.5)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.used.append([group["lr"] for group in optimizer.param_groups])


def fit(test, **settings):
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[test],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        **settings,
    )
    task = TwoRates()
    trainer.fit(task, datamodule=TinyData())
    return task


def test_groups_keep_their_ratio_and_the_schedule_has_no_say():
    test = LrRange(lowest=1e-5, highest=1e-1, num_steps=21)
    task = fit(test, max_epochs=10)
    assert len(task.used) == len(test.lrs) == len(test.losses) == 21
    for step, (first, second) in enumerate(task.used):
        assert first == pytest.approx(1e-5 * 10 ** (step / 5))
        assert second == pytest.approx(first / 10)
    assert test.losses[0] > min(test.losses)


def test_batches_that_accumulate_are_one_step():
    test = LrRange(lowest=1e-5, highest=1e-1, num_steps=5)
    fit(test, max_epochs=10, accumulate_grad_batches=3)
    assert len(test.lrs) == len(test.losses) == 5


def test_a_short_run_is_tested_over_the_whole_range():
    test = LrRange(lowest=1e-5, highest=1e-1, num_steps=40)
    fit(test, max_epochs=2)  # 16 steps
    assert len(test.lrs) == 40
    assert test.lrs[-1] == pytest.approx(1e-1)


def test_divergence_ends_the_test():
    test = LrRange(lowest=1e-3, highest=1e6, num_steps=100)
    fit(test, max_epochs=100)
    assert 10 < len(test.losses) < 100
