"""Checkpoints that are whole or not there, and the newest one of a run."""

import os
import uuid
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from mmlight.tasks.saved import read_checkpoint
from mmlight.tasks.sharded import is_sharded


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a temporary file in the same folder, syncs it, and renames it.

    Lightning's own writer goes through the system's temporary folder, which is not atomic across
    file systems: a process killed while saving would leave half a file under the final name.
    """

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint, also one in the parts that a sharded run wrote."""
        if is_sharded(Path(path)):
            return read_checkpoint(Path(path))
        options = {} if map_location is None else {"map_location": map_location}
        return super().load_checkpoint(path, weights_only=weights_only, **options)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Save on rank 0 (Lightning calls it there only)."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)


@dataclass
class CheckpointSettings:
    """When checkpoints are written, and which are kept.

    Attributes:
        every_n_steps: write `step-N.ckpt` each N optimiser steps; None: at each epoch's end.
        every_n_minutes: write by the clock instead; excludes `every_n_steps`.
        keep: how many of the newest are kept.
        monitor: also keep the best by this metric, such as `val/image_to_text/recall_at_1`.
        monitor_mode: whether the larger or the smaller value is better.
        keep_best: how many of the best are kept; has an effect only with `monitor`.
    """

    every_n_steps: int | None = None
    every_n_minutes: float | None = None
    keep: int = 1
    monitor: str | None = None
    monitor_mode: Literal["max", "min"] = "max"
    keep_best: int = 1

    def callbacks(self, folder: Path) -> list[ModelCheckpoint]:
        """Return the callbacks that do it."""
        minutes = self.every_n_minutes
        newest = ModelCheckpoint(
            dirpath=folder,
            filename="step-{step:08d}",
            auto_insert_metric_name=False,
            monitor="step",
            mode="max",
            save_top_k=self.keep,
            every_n_train_steps=self.every_n_steps,
            train_time_interval=None if minutes is None else timedelta(minutes=minutes),
            every_n_epochs=1 if self.every_n_steps is None and minutes is None else None,
            save_on_train_epoch_end=self.every_n_steps is None and minutes is None,
        )
        if self.monitor is None:
            return [newest]
        best = ModelCheckpoint(
            dirpath=folder,
            filename="best-{step:08d}",
            auto_insert_metric_name=False,
            monitor=self.monitor,
            mode=self.monitor_mode,
            save_top_k=self.keep_best,
            save_on_train_epoch_end=False,
        )
        return [newest, best]
