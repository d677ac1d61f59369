"""Tells of steps that were left out, and ends a training that learns nothing."""

import sys
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from mmlight import comm
from mmlight.errors import UserError
from mmlight.runs.run.folder import Run
from mmlight.saved.checkpoint import read_checkpoint
from mmlight.terminal import note

_WHAT = "the loss or its gradient is not finite"


class SkippedSteps(pl.Callback):
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
        self._before = self._told = self._seen_step = self._first_step = 0
        self._statistics: list[tuple[Tensor, Tensor]] = []

    def state_dict(self) -> dict[str, Any]:
        """Return how many there were in all."""
        return {"skipped": self._before + self._told}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._before = state_dict["skipped"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note where training begins."""
        self._first_step = self._seen_step = trainer.global_step
        norms = [m for m in pl_module.modules() if isinstance(m, _BatchNorm)]
        own = [x for norm in norms for x in (norm.running_mean, norm.running_var) if x is not None]
        self._statistics = [(x, x.clone()) for x in own]

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Look at the counts after a step, on a GPU after one that is logged."""
        step = trainer.global_step
        if step == self._seen_step:
            return
        self._seen_step = step
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if trainer.strategy.root_device.type == "cpu" or (every and step % every == 0):
            self._look(trainer, pl_module, most=self.most)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look, before anything is scored."""
        if trainer.state.fn == "fit":
            self._look(trainer, pl_module, most=self.most)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
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
