"""When checkpoints are written, and which are kept: the newest ones and the best."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from mmlight.runs.run.folder import step_of
from mmlight.scores import Direction, chosen_direction, direction_of_class, known_direction
from mmlight.terminal import note
from mmlight.trainer.checkpoint_files import (
    AtomicCheckpointIO,
    BackgroundCheckpointIO,
    put_later_aside,
)
from mmlight.trainer.loop import accumulates
from mmlight.trainer.monitored import check_found, check_monitor
from mmlight.trainer.run_logger import logged_rows


class KeptCheckpoints(ModelCheckpoint):
    """Lightning's callback, made to save after a step of the optimiser only, once each.

    Between two steps, gradients are part of the state, and no checkpoint holds them. A checkpoint
    of a step that is there already is written over; Lightning would keep both.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(enable_version_counter=False, **options)

    @cached_property
    def state_key(self) -> str:
        """The key of Lightning's class, whichever class this is."""
        own = super().state_key  # made from all settings, and wanted several times a step
        return own.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take up those of this run that are in the folder, as they are."""
        super().on_train_start(trainer, pl_module)
        paths = trainer.strategy.broadcast(self._paths())
        scores = self._scores(paths, step=trainer.global_step)
        kept = sorted(scores, key=lambda path: float(scores[path]), reverse=self.mode == "max")
        if self.save_top_k >= 0:
            kept = kept[: self.save_top_k]
        self.best_k_models = {path: scores[path] for path in kept}
        if kept:
            self.best_model_path, self.kth_best_model_path = kept[0], kept[-1]
            self.best_model_score, self.kth_value = scores[kept[0]], scores[kept[-1]]
        # Left over where a process was killed between the new one and the removal of the old one.
        for path in paths if kept else ():
            if path not in kept:
                trainer.strategy.remove_checkpoint(path)

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Save at the steps, or after the time, that were asked for."""
        every = self._every_n_train_steps
        # Lightning would take the time for used when it is over in the middle of an accumulation.
        if (
            self._train_time_interval is not None
            or (every > 0 and trainer.global_step % every == 0)
        ) and not self._should_skip_saving_checkpoint(trainer):
            super().on_train_batch_end(trainer, *args, **kwargs)

    def _should_skip_saving_checkpoint(self, trainer: pl.Trainer) -> bool:
        skips = super()._should_skip_saving_checkpoint(trainer)
        return skips or accumulates(trainer)

    def _should_remove_checkpoint(self, trainer: pl.Trainer, previous: str, current: str) -> bool:
        # Also the one that training went on from, which Lightning keeps for ever.
        return previous != current and Path(previous).parent == Path(str(self.dirpath))

    def _scores(self, paths: list[str], *, step: int) -> dict[str, torch.Tensor]:
        """Return the score of each checkpoint that counts; of those at later steps none does."""
        return {path: s for path, s in self.best_k_models.items() if path in paths}

    def _paths(self) -> list[str]:
        prefix = str(self.filename).partition("{")[0]
        return sorted(str(path) for path in Path(str(self.dirpath)).glob(f"{prefix}*.ckpt"))


class Newest(KeptCheckpoints):
    """Keeps the newest checkpoints, also one of the last step and one at any step on demand."""

    def __init__(self, **options: Any) -> None:
        super().__init__(monitor="step", mode="max", **options)
        self._last_step: float = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note how long training is, and put aside what it was before, had it gone further."""
        if trainer.is_global_zero:
            put_later_aside(Path(str(self.dirpath)), step=trainer.global_step)
        super().on_train_start(trainer, pl_module)
        self._last_step = trainer.estimated_stepping_batches
        self._last_global_step_saved = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Save at the steps that were asked for, and at the last one."""
        super().on_train_batch_end(trainer, *args, **kwargs)
        if self._every_n_epochs < 1 and trainer.global_step >= self._last_step:
            self.save_now(trainer)

    def save_now(self, trainer: pl.Trainer) -> None:
        """Save, on all ranks, unless this step was saved already.

        Args:
            trainer: at the end of a training batch.
        """
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def _scores(self, paths: list[str], *, step: int) -> dict[str, torch.Tensor]:
        return {path: torch.tensor(step_of(Path(path))) for path in paths}


class Best(KeptCheckpoints):
    """Keeps the best checkpoints by a metric of the validation."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save what a process was killed before: a step whose validation is in the log.

        Raises:
            UserError: no validation can have the metric.
        """
        check_monitor(trainer, pl_module, str(self.monitor), key="checkpoint.monitor")
        super().on_train_start(trainer, pl_module)
        values = [
            float(row[self.monitor])
            for row in logged_rows(trainer)
            if row["step"] == trainer.global_step and self.monitor in row
        ]
        values = trainer.strategy.broadcast(values)
        known = {step_of(Path(path)) for path in self.best_k_models}
        if values and trainer.global_step not in known:
            found = {str(self.monitor): torch.tensor(values[-1])}
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer) | found)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save if it is one of the best.

        Raises:
            UserError: the validation has no such metric.
        """
        if not trainer.sanity_checking and trainer.state.fn == "fit":
            check_found(str(self.monitor), trainer.callback_metrics, key="checkpoint.monitor")
        super().on_validation_end(trainer, pl_module)


@dataclass
class CheckpointSettings:
    """When checkpoints are written, and which are kept.

    Attributes:
        every_n_steps: write `step-N.ckpt` each N optimiser steps; None: at each epoch's end.
        every_n_minutes: write by the clock instead; excludes `every_n_steps`.
        keep: how many of the newest are kept.
        monitor: also keep the best by this metric, such as `val/image_to_text/recall_at_1`.
        monitor_mode: whether the larger or the smaller value is better; None tells it from the
            metric's class or name (losses, ranks and error rates fall).
        keep_best: how many of the best are kept; has an effect only with `monitor`.
        asynchronous: write in the background while training goes on, from a copy in the host's
            memory.
    """

    every_n_steps: int | None = None
    every_n_minutes: float | None = None
    keep: int = 1
    monitor: str | None = None
    monitor_mode: Literal["max", "min"] | None = None
    keep_best: int = 1
    asynchronous: bool = False

    def writer(self) -> AtomicCheckpointIO:
        """Return what writes them."""
        return BackgroundCheckpointIO() if self.asynchronous else AtomicCheckpointIO()

    def find_mode(self, directions: Mapping[str, Direction]) -> None:
        """Fill in `monitor_mode` where nobody set it and the metric's class says it.

        Args:
            directions: what classes say, by score without its stage.
        """
        self.monitor_mode = self.monitor_mode or direction_of_class(self.monitor, directions)

    def _mode(self, monitor: str) -> Direction:
        given, known = self.monitor_mode, known_direction(monitor)
        if given and known and given != known:
            kept = "largest" if given == "max" else "smallest"
            note(f"checkpoint.monitor_mode: {given} keeps the {kept} {monitor}, which is the worst")
        remedy = "set checkpoint.monitor_mode to max or min"
        return chosen_direction(monitor, given=given, remedy=remedy)

    def callbacks(self, folder: Path) -> list[ModelCheckpoint]:
        """Return the callbacks that do it."""
        minutes = self.every_n_minutes
        newest = Newest(
            dirpath=folder,
            filename="step-{step:08d}",
            auto_insert_metric_name=False,
            save_top_k=self.keep,
            every_n_train_steps=self.every_n_steps,
            train_time_interval=None if minutes is None else timedelta(minutes=minutes),
            every_n_epochs=1 if self.every_n_steps is None and minutes is None else None,
            save_on_train_epoch_end=self.every_n_steps is None and minutes is None,
        )
        if self.monitor is None:
            return [newest]
        best = Best(
            dirpath=folder,
            filename="best-{step:08d}",
            auto_insert_metric_name=False,
            monitor=self.monitor,
            mode=self._mode(self.monitor),
            save_top_k=self.keep_best,
            save_on_train_epoch_end=False,
        )
        return [newest, best]
