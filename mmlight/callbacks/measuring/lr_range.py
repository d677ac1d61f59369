"""Trains a few steps while the learning rate rises, to see which rates work."""

from typing import Any

import lightning.pytorch as pl
import torch

from mmlight import comm
from mmlight.optim.lr_range import has_diverged, lr_at


class LrRange(pl.Callback):
    """Raises the learning rate from step to step and notes the loss (arXiv 1506.01186).

    Groups of parameters keep the ratios of their rates; the schedule has no say. Training stops
    after `num_steps` optimiser steps, be the run itself shorter or longer, or when the loss has
    diverged.

    Args:
        lowest: rate of the first step.
        highest: rate of the last step.
        num_steps: optimiser steps.

    Attributes:
        lrs: the rate of each step, as `optimizer.lr`.
        losses: the mean loss of each step's batches on all ranks, before the step.
        ratios: of the groups' rates to `optimizer.lr`.
    """

    def __init__(self, *, lowest: float, highest: float, num_steps: int) -> None:
        self.lowest, self.highest, self.num_steps = lowest, highest, num_steps
        self.lrs: list[float] = []
        self.losses: list[float] = []
        self.ratios: list[float] = []
        self._batches: list[float] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Note the ratios of the learning rates, and set how many steps there are."""
        base = pl_module.optimizer_settings.lr
        self.ratios = [g["initial_lr"] / base for g in trainer.optimizers[0].param_groups]
        # Not the trainer's settings, by which the schedule checks its own.
        trainer.fit_loop.epoch_loop.max_steps = self.num_steps
        trainer.fit_loop.max_epochs = -1

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any
    ) -> None:
        """Set the rates; the schedule has set its own after the last step."""
        lr = lr_at(
            len(self.lrs), lowest=self.lowest, highest=self.highest, num_steps=self.num_steps
        )
        for group, ratio in zip(optimizer.param_groups, self.ratios, strict=True):
            group["lr"] = lr * ratio
        self.lrs.append(lr)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Note the loss, and stop where it is time."""
        self._batches.append(float(outputs["loss"]))
        if len(self.losses) == len(self.lrs):  # a batch that only accumulates
            return
        mean = torch.tensor(self._batches, dtype=torch.float64).mean().reshape(1)
        self.losses.append(float(comm.all_reduce_sum(mean)) / comm.world_size())
        self._batches = []
        if has_diverged(self.losses):
            trainer.should_stop = True
