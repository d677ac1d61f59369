"""Hooks of a training step that do nothing, which Lightning would call all the same."""

from typing import Any

import lightning.pytorch as pl

_CALLED_EACH_STEP = (
    *("on_train_batch_start", "on_train_batch_end", "on_before_zero_grad", "on_before_backward"),
    *("on_after_backward", "on_before_optimizer_step"),
)


def leave_out_empty_hooks(trainer: pl.Trainer, task: pl.LightningModule) -> None:
    """Keep Lightning from calling hooks that the callbacks and the task do not override.

    Lightning calls each of six hooks of every callback in each step, two microseconds apiece with
    what it does around a call, and passes over those that are None. Only these objects change:
    their classes keep every hook, so that a subclass may call `super()`'s.

    Args:
        trainer: its callbacks as they are now.
        task: the module that it trains.
    """
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        _leave_out(callback, base=pl.Callback)
    _leave_out(task, base=pl.LightningModule)


def _leave_out(owner: Any, *, base: type) -> None:
    for name in _CALLED_EACH_STEP:
        if name not in vars(owner) and getattr(type(owner), name) is getattr(base, name):
            setattr(owner, name, None)
