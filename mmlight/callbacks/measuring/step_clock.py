"""Runs a few steps of a training and notes what they cost."""

import time
from contextlib import ExitStack
from typing import Any

import lightning.pytorch as pl
import torch

from mmlight.costs.meters import EnergyMeter
from mmlight.costs.step_parts import StepParts
from mmlight.costs.tally import Tally


class StepClock(pl.Callback):
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

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
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
