"""How far a trainer is: the axes that every logged row carries, with the text tokens seen."""

from typing import Any

import lightning.pytorch as pl
import torch

from mmlight import comm
from mmlight.trainer.loop import StepCallback, is_logged


class TokenCount(StepCallback):
    """Counts the real tokens of captions, over all ranks and restarts.

    Each rank adds up its own on its device. The ranks add them together, and the number is read,
    only at log steps, before a validation and for a checkpoint; every rank comes there.

    Attributes:
        tokens: tokens trained on by all ranks, as of the last of these.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self._pending: torch.Tensor | None = None
        # Whether batches came since the last sum: the same on every rank, with text or without.
        self._is_behind = False
        self._device = torch.device("cpu")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note where a batch without text is counted."""
        self._device = pl_module.device

    def after_batch(self, trainer: pl.Trainer, task: Any, batch: Any, outputs: Any) -> None:
        """Count the batch (`mmlight.batch.Batch`)."""
        text = getattr(batch, "text", None)
        self._is_behind = True
        if text is not None:
            found = (text.mask_NL & text.present_N[:, None]).sum()
            self._pending = found if self._pending is None else self._pending + found
        if is_logged(trainer, step=trainer.global_step):
            self._add_up()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Have the rows of a validation, or of an epoch's end, tell how many tokens came before."""
        self._add_up()

    on_train_epoch_end = on_validation_start

    def state_dict(self) -> dict[str, Any]:
        """Return the count, for a checkpoint; every rank calls it."""
        self._add_up()
        return {"tokens": self.tokens}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint's count."""
        self.tokens = state_dict["tokens"]
        self._pending, self._is_behind = None, False

    def _add_up(self) -> None:
        if not self._is_behind:
            return
        pending = self._pending
        if pending is None:
            pending = torch.zeros((), dtype=torch.long, device=self._device)
        self.tokens += int(comm.all_reduce_sum(pending))
        self._pending, self._is_behind = None, False


def axes_of(trainer: pl.Trainer) -> dict[str, int]:
    """Return how far a trainer is: `step`, `epoch`, `samples` and, where text was seen, `tokens`.

    Lightning numbers the rows of a step and of the validation right after it from 0 and those at
    an epoch's end from 1; here a row's step is the number of optimiser steps done. Samples and
    tokens are those of all ranks; samples are 0 where the data module does not say its batch.
    """
    step = trainer.global_step
    batch = getattr(getattr(trainer, "datamodule", None), "global_batch_size", 0)
    samples = step * batch * trainer.accumulate_grad_batches
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    tokens = max((c.tokens for c in callbacks if isinstance(c, TokenCount)), default=0)
    axes = {"step": step, "epoch": trainer.current_epoch, "samples": samples}
    return {**axes, "tokens": tokens} if tokens else axes
