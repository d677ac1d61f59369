"""Counts the text tokens that training has seen."""

from typing import Any

import lightning.pytorch as pl
import torch

from mmlight import comm


class TokenCount(pl.Callback):
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

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count the batch (`mmlight.batch.Batch`)."""
        text = getattr(batch, "text", None)
        self._is_behind = True
        if text is not None:
            found = (text.mask_NL & text.present_N[:, None]).sum()
            self._pending = found if self._pending is None else self._pending + found
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and trainer.global_step % every == 0:
            self._add_up()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Have the rows of the validation tell how many tokens came before it."""
        self._add_up()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Have the rows of the epoch's end tell how many tokens came before it."""
        self._add_up()

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
