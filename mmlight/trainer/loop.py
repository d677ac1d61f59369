"""Where Lightning's training loop is, for tasks and callbacks."""

from typing import Any

import lightning.pytorch as pl


def accumulates(trainer: pl.Trainer) -> bool:
    """Return whether the batch that is done only added up gradients: no step came of it."""
    return trainer.fit_loop._should_accumulate()


def is_logged(trainer: pl.Trainer, *, step: int) -> bool:
    """Return whether the values of a step are kept.

    Args:
        trainer: whose `log_every_n_steps` it is.
        step: how many optimiser steps are done with it.
    """
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return bool(every) and step % every == 0


def num_batches(trainer: pl.Trainer) -> float:
    """Return how many batches the evaluation that goes on has; infinity if that is unknown."""
    batches: Any = trainer.num_val_batches
    if trainer.testing:
        batches = trainer.num_test_batches
    elif trainer.predicting:
        batches = trainer.num_predict_batches
    return float(sum(batches)) if isinstance(batches, list) else float(batches)


class StepCallback(pl.Callback):
    """A callback that acts after batches of training, or after steps of the optimiser.

    The order is that of the hook `on_train_batch_end`, which it takes the place of.
    """

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        """Act after the batch, and after the step where one was done with it."""
        self.after_batch(trainer, pl_module, batch, outputs)
        if not accumulates(trainer):
            self.after_step(trainer, pl_module)

    def after_batch(self, trainer: pl.Trainer, task: Any, batch: Any, outputs: Any) -> None:
        """Act after a batch; the ``loss`` of its outputs is divided by those that accumulate."""

    def after_step(self, trainer: pl.Trainer, task: Any) -> None:
        """Act after a step of the optimiser: the last batch of those that accumulate is done."""
