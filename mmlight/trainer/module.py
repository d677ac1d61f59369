"""What a task gets from its trainer: steps, seeds, clipping, and rows for the loggers."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning
import torch
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch import Tensor, nn

from mmlight import comm
from mmlight.errors import UserError
from mmlight.optim.adamw import own_settings
from mmlight.trainer.finite_steps import FiniteSteps
from mmlight.trainer.internals import FakeTensor
from mmlight.trainer.loop import accumulates, is_logged


@dataclass
class ShardedPart:
    """A module whose parameters FSDP2 gathers by themselves.

    Attributes:
        module: the module.
        blocks: modules within it, each of which is gathered by itself too.
        is_exact: whether its parameters stay in float32 where others are gathered in bfloat16.
    """

    module: nn.Module
    blocks: Sequence[nn.Module] = ()
    is_exact: bool = False


class TrainedModule(lightning.LightningModule):
    """A LightningModule with mmlight's steps; `mmlight.tasks.task.Task` says what it learns.

    Attributes:
        finite: which steps were left out because their gradients are not finite.
    """

    def __init__(self) -> None:
        super().__init__()
        self.finite = FiniteSteps()
        self._seed = 0
        self._configured: list[dict[str, Any]] = []
        self._unlogged: dict[str, Any] = {}

    @property
    def datamodule(self) -> Any:
        """The trainer's data module; None without a trainer, or where it has none."""
        return getattr(self._trainer, "datamodule", None)

    @property
    def is_fitting(self) -> bool:
        """Whether a trainer trains it; not so without one, and in evaluations of their own."""
        return self._trainer is not None and self.trainer.state.fn == "fit"

    def unfreezes(self) -> bool:
        """Return whether more parameters are trained later on."""
        return False

    def has_unused_parameters(self) -> bool:
        """Return whether parameters that are ever trained get no gradient in some steps."""
        return self.unfreezes()

    def sharded_parts(self) -> Iterator[ShardedPart]:
        """Yield what FSDP2 shards; parameters outside of these stay whole."""
        raise NotImplementedError

    def after_step(self) -> None:
        """Put parameters back into their range after an optimiser step."""

    def setup(self, stage: str) -> None:
        """Refuse precisions that would round the inputs themselves."""
        if str(self.trainer.precision) in ("16-true", "bf16-true", "64-true"):
            half = "16-mixed" if str(self.trainer.precision) == "16-true" else "bf16-mixed"
            raise UserError(
                f"trainer.precision {self.trainer.precision} would also round the waveforms; use "
                f"{half} or 32-true"
            )

    def on_fit_start(self) -> None:
        """Refuse a DDP that would wait for what does not come."""
        strategy = self.trainer.strategy
        if not isinstance(strategy, DDPStrategy) or not self.has_unused_parameters():
            return
        if not strategy._ddp_kwargs.get("find_unused_parameters"):
            raise UserError(
                f"trainer.strategy {type(strategy).__name__} would wait for parameters that get no "
                "gradient; use trainer.strategy: ddp, which looks for them"
            )

    def total_steps(self) -> int:
        """Return how many steps the training has.

        Raises:
            UserError: nothing limits it.
        """
        total = self.trainer.estimated_stepping_batches
        if total == float("inf"):
            raise UserError(
                "trainer.max_epochs and trainer.max_steps are both unlimited, but the schedule "
                "needs the number of steps; set one of them"
            )
        return int(total)

    def keep_settings(self, optimizer: torch.optim.Optimizer) -> None:
        """Note the settings of a new optimiser, before a checkpoint brings those of its own run."""
        self._configured = own_settings(optimizer)

    def on_train_start(self) -> None:
        """Train by the settings of this start; a checkpoint has restored those of its own run."""
        self._seed = int(os.environ.get("PL_GLOBAL_SEED", "0"))
        configs = self.trainer.lr_scheduler_configs
        for optimizer, config in zip(self.trainer.optimizers, configs, strict=True):
            scheduler: Any = config.scheduler
            scheduler.base_lrs = [group["lr"] for group in self._configured]
            factor = scheduler.lr_lambdas[0](scheduler.last_epoch)
            for group, settings in zip(optimizer.param_groups, self._configured, strict=True):
                group.update(settings)
                group["initial_lr"] = settings["lr"]
                group["lr"] = settings["lr"] * factor

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed from (seed, epoch, step, rank): a resumed run draws the same numbers."""
        mixed = (self._seed * 1_000_003 + batch.epoch) * 1_000_003 + batch.step
        _seed_generators((mixed * 1_009 + comm.rank()) % 2**63)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Go backward; where losses are scaled, note whether this one is finite."""
        if self._scales_loss():
            self.finite.note_loss(loss)
        super().backward(loss, *args, **kwargs)

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip gradients, and leave out a step whose gradients are not finite."""
        # The trainer has checked both settings; LightningModule would once more in each step.
        algorithm: Any = gradient_clip_algorithm or GradClipAlgorithmType.NORM
        plugin = self.trainer.precision_plugin
        if self._scales_loss():  # which leaves out steps itself, and lowers the scale
            plugin.clip_gradients(optimizer, gradient_clip_val or 0.0, algorithm)
            self.finite.count_losses()
        elif type(plugin).clip_grad_by_norm is Precision.clip_grad_by_norm:
            # Lightning refuses any fused kernel, for the sake of float16's scaler.
            most = gradient_clip_val or 0.0
            by_value = algorithm == GradClipAlgorithmType.VALUE
            self.finite.clip(optimizer, most=most, by_value=by_value)
        else:
            plugin.clip_gradients(optimizer, gradient_clip_val or 0.0, algorithm)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then keep the objective's parameters in their range."""
        super().optimizer_step(*args, **kwargs)
        self.after_step()

    def may_read(self, tensor: Tensor) -> bool:
        """Tell whether a check may read values: on a GPU in every hundredth step of training.

        Reading waits until the GPU has done all that it was given.
        """
        if isinstance(tensor, FakeTensor):  # it has none
            return False
        return not (tensor.is_cuda and self.training and self.global_step % 100)

    def log_gated(self, values: dict[str, Tensor]) -> None:
        """Log training values and the learning rate, in steps whose values are kept.

        Callbacks find them at once; loggers get them when the step is done.
        """
        if is_logged(self.trainer, step=self.global_step + 1):
            rates = [group["lr"] for group in self.trainer.optimizers[0].param_groups]
            lrs = {"train/lr": max(rates)}
            if min(rates) < max(rates):
                lrs["train/lr_lowest"] = min(rates)
            self._unlogged = values | lrs
            self.trainer.callback_metrics.update(
                {name: torch.as_tensor(value) for name, value in self._unlogged.items()}
            )

    def log_with_step(self, values: Mapping[str, float]) -> None:
        """Have values go to the loggers in the row of the step that is being done.

        Args:
            values: what a callback found at the end of a batch with which a step was done.
        """
        self._unlogged |= values

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Give the loggers what `log_gated` was told."""
        self.log_step()

    def log_step(self) -> None:
        """Give the loggers what `log_gated` was told, once; on all ranks, after a step.

        A checkpoint of the step has it done first: what goes on from it does not log it again.
        """
        # Batches whose gradients are only accumulated belong to a step that is not done.
        if self._unlogged and not accumulates(self.trainer):
            values = {name: float(value) for name, value in self._unlogged.items()}
            self._unlogged = {}
            log_to_all(self.trainer, values)

    def _scales_loss(self) -> bool:
        plugin = self.trainer.precision_plugin
        return isinstance(plugin, MixedPrecision) and plugin.scaler is not None


def log_to_all(trainer: lightning.Trainer, values: Mapping[str, float]) -> None:
    """Give values of the step that is done to every logger, and to `trainer.logged_metrics`.

    Lightning's own `log` takes 0.4 ms for each.
    """
    trainer.logged_metrics.update(zip(values, torch.tensor([*values.values()]), strict=True))
    for logger in trainer.loggers:
        logger.log_metrics(dict(values), step=trainer.global_step)


def _seed_generators(seed: int) -> None:
    """Seed the generators in use as `torch.manual_seed` does.

    That one also asks every kind of device there is; for each that nobody uses it formats a stack
    trace and keeps it, which took 15 % of a step of 2 ms and grew with every step.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)
