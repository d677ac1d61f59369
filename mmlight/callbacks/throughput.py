"""Training speed in samples per second."""

import time
from typing import Any

import lightning.pytorch as pl

from mmlight.runs.summary import SAMPLES_PER_S


class Throughput(pl.Callback):
    """Logs `train/samples_per_s`, over all ranks, at the trainer's log steps.

    The clock runs from the end of the first step (so that compilation does not count) and stands
    still during validation. The device is never waited for: over the many steps between two log
    steps, the host cannot run away from it.
    """

    def __init__(self) -> None:
        self.samples_per_s: float | None = None
        self._since: float | None = None
        self._samples = 0
        self._paused_s = 0.0
        self._validation_began = 0.0
        self._seen_step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin anew."""
        self._since, self._samples, self._paused_s = None, 0, 0.0
        self._seen_step = trainer.global_step

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self._validation_began = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the clock go on."""
        self._paused_s += time.perf_counter() - self._validation_began

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count the batch (`mmlight.batch.Batch`), and log at log steps."""
        if self._since is None:
            self._since, self._paused_s = time.perf_counter(), 0.0
            self._seen_step = trainer.global_step
            return
        self._samples += batch.size * trainer.world_size
        step = trainer.global_step
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if step == self._seen_step or not every or step % every:
            return
        self._seen_step = step
        now = time.perf_counter()
        self.samples_per_s = self._samples / max(now - self._since - self._paused_s, 1e-9)
        self._since, self._samples, self._paused_s = now, 0, 0.0
        pl_module.log(SAMPLES_PER_S, self.samples_per_s, on_step=True, on_epoch=False)
