"""Counts the samples that training and scores do without."""

from typing import Any

import lightning.pytorch as pl
import torch

from mmlight import comm
from mmlight.batch import Batch


class LeftOut(pl.Callback):
    """Logs ``num_left_out`` of each evaluation, and of each epoch of training, where there are any.

    These are samples that cannot be read, and those that have nothing of what the model reads;
    `bad_samples.jsonl` in the run's folder names them.
    """

    def __init__(self) -> None:
        self._counts = {"train": 0, "val": 0, "test": 0}

    def score_names(self, pl_module: pl.LightningModule) -> set[str]:
        """Return the name of what it logs, without its stage."""
        return {"num_left_out"}

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Count the batch's."""
        self._counts["train"] += len(batch.bad)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the batch's."""
        self._counts["test" if trainer.testing else "val"] += len(batch.bad)

    on_test_batch_end = on_validation_batch_end

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log those of the epoch, as far as it was trained."""
        self._log(pl_module, "train")

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log those of the evaluation."""
        self._log(pl_module, "test" if trainer.testing else "val")

    on_test_epoch_end = on_validation_epoch_end

    def _log(self, pl_module: pl.LightningModule, stage: str) -> None:
        count, self._counts[stage] = self._counts[stage], 0
        # On every rank: a collective.
        total = int(comm.all_reduce_sum(torch.tensor(count, device=pl_module.device)))
        if total:
            pl_module.log(f"{stage}/num_left_out", float(total))
