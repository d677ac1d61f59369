"""Makes up for a validation that a run was stopped before or in."""

from copy import deepcopy
from typing import Any

import lightning.pytorch as pl

from mmlight.trainer.loop import StepCallback, accumulates
from mmlight.trainer.run_logger import logged_rows


class OwedValidation(StepCallback):
    """Runs a validation that was due at the checkpoint's step, before training goes on from it.

    Lightning takes a validation for done when it goes on from a checkpoint that was written just
    before it. Here the checkpoint says that one was due, the run's log says whether it was
    finished. A checkpoint that is written in the middle of a validation (to leave at once) tells
    the loops' progress as it was before: half a validation is done again as a whole.

    A validation that is due in the middle of an accumulation (`val_check_interval` counts batches)
    comes after the step that ends it: what it finds can then be saved.
    """

    def __init__(self) -> None:
        self._postponed = False
        self._owes = False
        self._loops: dict[str, Any] | None = None
        self._validates = True

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Have validations wait for a step of the optimiser."""
        loop: Any = trainer.fit_loop.epoch_loop
        is_due = loop._should_check_val_fx

        def is_due_after_step(*args: Any) -> bool:
            due = is_due(*args)
            if accumulates(trainer) and not trainer.should_stop:
                self._postponed = self._postponed or due
                return False
            return due or self._postponed

        if stage == "fit":
            loop._should_check_val_fx = is_due_after_step

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that it is no longer due."""
        self._postponed = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validate, if the checkpoint owes it."""
        self._validates = trainer.enable_validation
        if not self._owes:
            return
        known = any(
            row["step"] == trainer.global_step and any(name.startswith("val/") for name in row)
            for row in logged_rows(trainer)
        )
        if not trainer.strategy.broadcast(known):
            loop = trainer.fit_loop.epoch_loop.val_loop
            loop.restarting = False
            trainer.validating = True
            loop.run()
            trainer.training = True
            trainer._logger_connector._first_loop_iter = None
        self._owes = False

    def after_batch(self, trainer: pl.Trainer, task: Any, batch: Any, outputs: Any) -> None:
        """Note whether a validation follows; checkpoint callbacks come after this one."""
        if not self._validates:
            return
        loop = trainer.fit_loop
        assert loop._data_fetcher is not None
        self._owes = loop.epoch_loop._should_check_val_fx(loop._data_fetcher)
        self._loops = deepcopy(loop.state_dict()) if self._owes else None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that it is done."""
        self._owes, self._loops = False, None

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: Any) -> None:
        """In the middle of a validation, store the loops' progress as it was before."""
        if trainer.validating and self._loops is not None:
            checkpoint["loops"]["fit_loop"] = self._loops

    def state_dict(self) -> dict[str, Any]:
        """Return whether a validation is owed."""
        return {"owes": self._owes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up."""
        self._owes = state_dict["owes"]
