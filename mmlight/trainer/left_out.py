"""Counts the samples and steps that a training does without; ends one that learns nothing."""

import sys
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from mmlight import comm
from mmlight.batch import Batch
from mmlight.errors import UserError
from mmlight.runs.run.folder import Run
from mmlight.saved.checkpoint import read_checkpoint
from mmlight.terminal import note
from mmlight.trainer.ema import STATISTICS
from mmlight.trainer.loop import StepCallback, is_logged

_WHAT = "the loss or its gradient is not finite"


class SkippedSteps(StepCallback):
    """Logs ``train/skipped_steps``, and stops when too many in a row were left out.

    On a GPU the counts are read at log steps, when it is waited for anyway: what stops there may
    have left out some more steps. They change no weight; the statistics of batch norms, which
    forward changes, go back to those of the last look.

    Args:
        run: the run's folder.
        most: steps in a row.
    """

    def __init__(self, run: Run, *, most: int) -> None:
        self.run, self.most = run, most
        self._before = self._told = self._first_step = 0
        self._statistics: list[tuple[Tensor, Tensor]] = []

    def state_dict(self) -> dict[str, Any]:
        """Return how many there were in all."""
        return {"skipped": self._before + self._told}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._before = state_dict["skipped"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note where training begins."""
        self._first_step = trainer.global_step
        own = [
            buffer
            for name, buffer in pl_module.named_buffers()
            if name.rpartition(".")[2] in STATISTICS
        ]
        self._statistics = [(x, x.clone()) for x in own]

    def after_step(self, trainer: pl.Trainer, task: Any) -> None:
        """Look at the counts after a step, on a GPU after one that is logged."""
        on_cpu = trainer.strategy.root_device.type == "cpu"
        if on_cpu or is_logged(trainer, step=trainer.global_step):
            self._look(trainer, task, most=self.most)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look, before anything is scored."""
        if trainer.state.fn == "fit":
            self._look(trainer, pl_module, most=self.most)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: Any) -> None:
        """Look, before anything is written; what is to stop the training stops it later."""
        self._look(trainer, pl_module, most=sys.maxsize)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse to call a training finished of which every step was left out."""
        done = trainer.global_step - self._first_step
        self._look(trainer, pl_module, most=min(self.most, done - 1) if done else self.most)

    def _look(self, trainer: pl.Trainer, pl_module: Any, *, most: int) -> None:
        """Every rank calls it at the same steps, and reads the same."""
        in_a_row, total = pl_module.finite.read()
        for statistic, good in self._statistics:
            if total > self._told:
                statistic.copy_(good)
            else:
                good.copy_(statistic)
        if total > self._told:
            if not self._told and trainer.is_global_zero:
                note(
                    f"step {trainer.global_step}: {_WHAT}; such steps are left out "
                    "(train/skipped_steps counts them, run.max_skipped_steps limits them)"
                )
            self._told = total
            pl_module.log_with_step({"train/skipped_steps": float(self._before + total)})
        if in_a_row > most:
            step, where = trainer.global_step, comm.broadcast_string(self._good(trainer))
            raise UserError(
                f"{_WHAT} in {in_a_row} steps in a row, up to step {step} (run.max_skipped_steps: "
                f"{self.most}), so that nothing is learned; {where}. Usual causes are a learning "
                "rate that is too high, too short a warm-up, and values in the data"
            )

    def _good(self, trainer: pl.Trainer) -> str:
        for path in self.run.checkpoints_newest_first() if trainer.is_global_zero else ():
            try:
                tensors = read_checkpoint(path)["state_dict"].values()
            except UserError:
                continue
            if all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
                return f"the last good checkpoint is {path}"
        return "there is no good checkpoint"


class LeftOut(StepCallback):
    """Logs ``num_left_out`` of each evaluation, and of each epoch of training, where there are any.

    These are samples that cannot be read, and those that have nothing of what the model reads;
    `bad_samples.jsonl` in the run's folder names them.
    """

    def __init__(self) -> None:
        self._counts = {"train": 0, "val": 0, "test": 0}

    def score_names(self, pl_module: pl.LightningModule) -> set[str]:
        """Return the name of what it logs, without its stage."""
        return {"num_left_out"}

    def after_batch(self, trainer: pl.Trainer, task: Any, batch: Any, outputs: Any) -> None:
        """Count the batch's."""
        self._counts["train"] += len(batch.bad)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Batch, *_: Any, **__: Any
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
