"""Stops training when a metric no longer improves."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping
from torch import Tensor

from mmlight.errors import UserError
from mmlight.scores import (
    Direction,
    chosen_direction,
    direction_of_class,
    format_value,
    known_direction,
)
from mmlight.terminal import say
from mmlight.trainer.monitored import check_found, check_monitor
from mmlight.trainer.run_logger import logged_rows


class EarlyStopping(LightningEarlyStopping):
    """Stops when `monitor` has not improved in `patience` validations in a row.

    The weights are then those of the last step; `checkpoint.monitor` keeps the best ones too. The
    count is part of the checkpoint: a resumed run stops at the step at which it would have stopped
    anyway. A metric that is not finite stops the run at once.

    Args:
        monitor: the metric, such as `val/accuracy`.
        patience: validations without an improvement.
        min_delta: less than this is no improvement.
        mode: whether the larger or the smaller value is better; None tells it from the metric's
            class or name, as `checkpoint.monitor_mode` does (losses, ranks and error rates fall).
    """

    def __init__(
        self,
        monitor: str,
        patience: int = 3,
        min_delta: float = 0.0,
        mode: Literal["max", "min"] | None = None,
    ) -> None:
        if patience < 1:
            raise UserError(f"early_stopping.patience is {patience}; it must be 1 or more")
        if min_delta < 0:
            raise UserError(f"early_stopping.min_delta is {min_delta}; it must be 0 or more")
        super().__init__(
            monitor,
            min_delta=min_delta,
            patience=patience,
            mode=mode or known_direction(monitor) or "max",
            check_on_train_epoch_end=False,
        )
        self._asked: Direction | None = mode
        self._best_step = 0
        self._seen_step = 0

    def find_mode(self, directions: Mapping[str, Direction]) -> None:
        """Settle which way the metric is better, before training.

        Args:
            directions: what classes say, by score without its stage.

        Raises:
            UserError: neither the settings nor the metric's class or name say it.
        """
        self._asked = chosen_direction(
            self.monitor,
            given=self._asked or direction_of_class(self.monitor, directions),
            remedy="set early_stopping.mode to max or min",
        )
        if self._asked != self.mode:
            self.mode = self._asked
            self.min_delta, self.best_score = -self.min_delta, -self.best_score

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a metric of which nobody has said which way it is better."""
        self.find_mode({})

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse a run that never has the metric.

        Raises:
            UserError: nothing is ever validated, or not scored so: training would never stop early.
        """
        check_monitor(trainer, pl_module, self.monitor, key="early_stopping.monitor")
        # A checkpoint is written before the validation of its step; what that found is in the log,
        # and Lightning does not validate there again.
        missed = [
            (row["step"], float(row[self.monitor]))
            for row in logged_rows(trainer)
            if self._seen_step < row["step"] <= trainer.global_step and self.monitor in row
        ]
        for step, value in trainer.strategy.broadcast(missed):
            self._count(trainer, torch.tensor(value), step)

    def state_dict(self) -> dict[str, Any]:
        """Return what has been seen so far."""
        own = {"best_step": self._best_step, "seen_step": self._seen_step}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting, with the patience that is asked for now."""
        super().load_state_dict({**state_dict, "patience": self.patience})
        self._best_step, self._seen_step = state_dict["best_step"], state_dict["seen_step"]

    def _run_early_stopping_check(self, trainer: pl.Trainer) -> None:
        check_found(self.monitor, trainer.callback_metrics, key="early_stopping.monitor")
        self._count(trainer, trainer.callback_metrics[self.monitor].squeeze(), trainer.global_step)

    def _count(self, trainer: pl.Trainer, current: Tensor, step: int) -> None:
        """Count one validation; every rank calls it."""
        best = float(self.best_score)
        asked, _ = self._evaluate_stopping_criteria(current)
        asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        trainer.should_stop = trainer.should_stop or asked
        self._seen_step = step
        if float(self.best_score) != best:
            self._best_step = step
        if asked and trainer.is_global_zero:
            said = f"stopped early at step {step:,}: {self._reason(float(current))}"
            bar = trainer.progress_bar_callback
            bar.print(said) if bar is not None else say(said)

    def _reason(self, current: float) -> str:
        if not math.isfinite(current):
            return f"{self.monitor} is {current}"
        best = format_value(self.monitor, float(self.best_score))
        verb = "risen above" if self.mode == "max" else "fallen below"
        delta = f" by {abs(self.min_delta):g}" if self.min_delta else ""
        return (
            f"{self.monitor} has not {verb} {best} (step {self._best_step:,}){delta} in "
            f"{self.wait_count} validations (early_stopping.patience)"
        )
