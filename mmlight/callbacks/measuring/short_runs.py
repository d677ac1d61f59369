"""Short trainings that measure: which learning rates work, what a step costs."""

import time
from contextlib import ExitStack
from typing import Any

import lightning.pytorch as pl
import torch

from mmlight import comm
from mmlight.costs.meters import EnergyMeter
from mmlight.costs.step_parts import StepParts
from mmlight.costs.tally import Tally
from mmlight.optim.lr_range import has_diverged, lr_at
from mmlight.trainer.loop import StepCallback


class LrRange(StepCallback):
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

    def after_batch(self, trainer: pl.Trainer, task: Any, batch: Any, outputs: Any) -> None:
        """Note the loss, and stop where it is time."""
        self._batches.append(float(outputs["loss"]))
        if len(self.losses) == len(self.lrs):  # a batch that only accumulates
            return
        mean = torch.tensor(self._batches, dtype=torch.float64).mean().reshape(1)
        self.losses.append(float(comm.all_reduce_sum(mean)) / comm.world_size())
        self._batches = []
        if has_diverged(self.losses):
            trainer.should_stop = True


class StepClock(StepCallback):
    """Lets a training run for `warmup` and `num_steps` batches, and measures the latter.

    The first batch is counted (`Tally`), which takes long and is therefore warm-up.

    Args:
        parts: the trainer's profiler.
        num_steps: batches that are measured.
        warmup: batches before them, at least 2.

    Attributes:
        flops: of a batch on this rank.
        num_samples: of a batch on this rank.
        cpu_s: CPU time of this process over the measured batches.
        wall_s: their time.
        joules: the GPU's energy over them, or None.
        num_done: batches that were measured.
    """

    def __init__(self, parts: StepParts, *, num_steps: int, warmup: int) -> None:
        self.parts, self.num_steps, self.warmup = parts, num_steps, warmup
        self.flops = self.cpu_s = self.wall_s = 0.0
        self.joules: float | None = None
        self.num_samples = self.num_done = 0
        self._seen = 0
        self._tally: Tally | None = None
        self._stack = ExitStack()
        self._began = (0.0, 0.0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Watch the objective and what is within it."""
        device = trainer.strategy.root_device
        self._is_cuda = device.type == "cuda"
        self._meter = EnergyMeter(device)
        self._stack.enter_context(self.parts.watch_collectives())
        self.parts.watch_task(pl_module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count the first batch."""
        if self._seen == 0:
            self._tally = Tally()
            self._tally.__enter__()

    def after_batch(self, trainer: pl.Trainer, task: Any, batch: Any, outputs: Any) -> None:
        """Begin to measure after the warm-up, and stop when enough is known."""
        if self._tally is not None:
            self._tally.__exit__(None, None, None)
            self.flops = self._tally.counted.flops
            self._tally = None
        self._seen += 1
        if self._seen == self.warmup:
            self._wait()
            self._joules = self._meter.joules()
            self._began = (time.perf_counter(), time.process_time())
            self.num_samples = 0
            self.parts.begin(is_cuda=self._is_cuda)
        elif self._seen > self.warmup:
            self.num_done += 1
            self.num_samples += batch.size
            if self.num_done == self.num_steps:
                trainer.should_stop = True
                # Lightning would go on to the experiment's min_epochs or min_steps.
                trainer.fit_loop.epoch_loop.max_steps = trainer.global_step
                self._finish()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Finish, where the training is shorter than was asked for."""
        self._finish()
        self._stack.close()

    def _finish(self) -> None:
        if self.wall_s or not self.num_done:
            return
        self._wait()
        now = (time.perf_counter(), time.process_time())
        self.wall_s, self.cpu_s = now[0] - self._began[0], now[1] - self._began[1]
        joules = self._meter.joules()
        if joules is not None and self._joules is not None:
            self.joules = joules - self._joules

    def _wait(self) -> None:
        if self._is_cuda:
            torch.cuda.synchronize()
