"""An exponential moving average of the weights, which evaluation and checkpoints use."""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor
from torch.distributed.tensor import DTensor

from mmlight.errors import UserError
from mmlight.trainer.loop import StepCallback

_KEY = "ema"
# Buffers of norms that a forward pass in training changes.
STATISTICS = ("running_mean", "running_var")


class Ema(StepCallback):
    """Averages the weights over training; validates, and ends, with the average.

    After every `update_every` optimiser steps, ``average += (1 - d) (weights - average)`` with
    ``d = min(decay, (1 + t) / (10 + t))`` in the t-th update (t = 0, 1, ...), the warm-up of
    TensorFlow's ExponentialMovingAverage, so that early averages are not stuck at the random
    start. Trainable parameters and the running statistics of batch norms are averaged, in
    float32 or better; frozen parameters are not stored twice.

    A checkpoint's `state_dict` is the average, which is what validation saw and what is to be
    used. The weights to train on from are kept beside it, so that a resumed run equals an
    uninterrupted one bit for bit. During validation a third copy of the trained weights exists.

    Lightning's own `WeightAveraging` is not used: it copies the whole module before a strategy
    could place it, averages integer buffers as if they were numbers, keeps frozen towers twice,
    and puts the raw weights back before ``on_validation_epoch_end`` of the module, where zero-shot
    classifiers are built.

    Args:
        decay: share of the old average that an update keeps, at most; in (0, 1). Nearer to 1
            averages over more updates: about 1 / (1 - decay) of them.
        update_every: optimiser steps between two updates.

    Attributes:
        num_updates: updates so far.

    Raises:
        UserError: a value is out of range, or the trainer saves only weights or shards them.
    """

    def __init__(self, decay: float = 0.999, update_every: int = 1) -> None:
        if not 0 < decay < 1:
            raise UserError(f"ema decay {decay} must lie between 0 and 1, such as 0.999")
        if update_every < 1:
            raise UserError(f"ema update_every {update_every} must be at least 1")
        self.decay = decay
        self.update_every = update_every
        self._average: dict[str, Tensor] | None = None
        self._raw: dict[str, Tensor] | None = None  # the weights, while the average is in use
        self.num_updates = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse trainers with which the average would be lost."""
        if stage != "fit":
            return
        self._average, self._raw, self.num_updates = None, None, 0
        if isinstance(trainer.strategy, FSDPStrategy):
            raise UserError("ema does not work with Lightning's FSDPStrategy; use strategy: fsdp")
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.save_weights_only:
                raise UserError(
                    "ema needs checkpoints with save_weights_only: false, because Lightning leaves "
                    "callbacks, and so the average, out of the others"
                )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with the weights as they are, unless a checkpoint brought an average."""
        self._begin(pl_module)

    @torch.no_grad()
    def after_step(self, trainer: pl.Trainer, task: Any) -> None:
        """Update the average after an optimiser step (not after a batch that only accumulates)."""
        if trainer.global_step % self.update_every:
            return
        assert self._average is not None
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        for name, tensor in _averaged_tensors(task).items():
            if name not in self._average:  # unfrozen since the start: joins with its value of now
                self._average[name] = _wide(tensor)
        tensors = _all_tensors(task)
        averages = [_own_part(average) for average in self._average.values()]
        values = [
            _own_part(tensors[name]).detach().to(average.dtype)
            for name, average in zip(self._average, averages, strict=True)
        ]
        torch._foreach_lerp_(averages, values, 1 - decay)
        self.num_updates += 1

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the average in use."""
        if trainer.state.fn == "fit":
            self._begin(pl_module)
            self._use_average(pl_module)

    @torch.no_grad()
    def on_validation_end(
        self, trainer: pl.Trainer, pl_module: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Put the weights back; checkpoint callbacks come after this one."""
        if self._raw is None:
            return
        tensors = _all_tensors(pl_module)
        for name, weights in self._raw.items():
            _own_part(tensors[name]).copy_(_own_part(weights))
        self._raw = None

    on_exception = on_validation_end  # where validation was broken off

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the average in the module: it is the result of training."""
        if self._average is not None:
            self._use_average(pl_module)
            self._average, self._raw = None, None

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: Any) -> None:
        """Store the average as the model's state and, beside it, the weights."""
        if self._average is None:
            return
        raw = self._raw if self._raw is not None else _all_tensors(pl_module)
        state: dict[str, Tensor] = dict(checkpoint["state_dict"])
        narrow: dict[str, Tensor] = {}
        for name, names in _names(pl_module).items():
            if name not in self._average:
                continue
            average = self._average[name]
            if average.dtype != raw[name].dtype:
                narrow[name] = average
            for alias in names & state.keys():
                state[alias] = average.to(raw[name].dtype)
        checkpoint["state_dict"] = state
        checkpoint[_KEY] = {
            "weights": {name: raw[name].detach() for name in self._average},
            # Averages of narrow (bfloat16) weights are wider than the state that shows them.
            "average": narrow,
            "num_updates": self.num_updates,
        }

    @torch.no_grad()
    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: Any) -> None:
        """Take up the average and the weights again, to train on."""
        if trainer.state.fn != "fit" or _KEY not in checkpoint:
            return
        stored = checkpoint[_KEY]
        # Lightning has loaded the average into the module; it stays there as the average's start.
        tensors = _all_tensors(pl_module)
        self._average = {}
        for name, weights in stored["weights"].items():
            average = stored["average"].get(name, tensors[name])
            self._average[name] = _wide(average)
            _own_part(tensors[name]).copy_(_own_part(weights))
        self.num_updates = stored["num_updates"]

    def _begin(self, pl_module: pl.LightningModule) -> None:
        tensors = _all_tensors(pl_module)
        # Validation runs in inference mode, whose new tensors could never be updated outside of it.
        with torch.inference_mode(False):
            if self._average is None:
                current = _averaged_tensors(pl_module)
                self._average = {name: _wide(tensor) for name, tensor in current.items()}
            # A checkpoint is read before the strategy moves the module to its device.
            self._average = {n: a.to(tensors[n].device) for n, a in self._average.items()}

    @torch.no_grad()
    def _use_average(self, pl_module: pl.LightningModule) -> None:
        assert self._average is not None and self._raw is None
        tensors = _all_tensors(pl_module)
        with torch.inference_mode(False):
            self._raw = {name: tensors[name].detach().clone() for name in self._average}
        for name, average in self._average.items():
            _own_part(tensors[name]).copy_(_own_part(average))


def _own_part(tensor: Tensor) -> Tensor:
    """Return what this rank holds of a tensor, in the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _wide(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().to(torch.promote_types(tensor.dtype, torch.float32))


def _all_tensors(module: torch.nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer once, under its first name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _averaged_tensors(module: torch.nn.Module) -> dict[str, Tensor]:
    """Trainable parameters, and the running statistics of batch norms."""
    averaged: dict[str, Tensor] = {
        name: p for name, p in module.named_parameters() if p.requires_grad
    }
    # Other buffers are left alone: many are integers, or masks of minus infinity, whose average
    # with themselves is NaN.
    for name, buffer in module.named_buffers():
        if name.rpartition(".")[2] in STATISTICS:
            averaged[name] = buffer
    return averaged


def _names(module: torch.nn.Module) -> dict[str, set[str]]:
    """For the first name of each tensor, all names a state dict gives it (tied weights)."""
    names: dict[str, set[str]] = {}
    first = {id(tensor): name for name, tensor in _all_tensors(module).items()}
    for iterate in (module.named_parameters, module.named_buffers):
        for name, tensor in iterate(remove_duplicate=False):
            names.setdefault(first[id(tensor)], set()).add(name)
    return names
