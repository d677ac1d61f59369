"""The base of all tasks: optimiser, schedule, seeds, and self-contained checkpoints."""

import os
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import lightning
import torch
from torch import Tensor

from mmlight import comm
from mmlight.errors import UserError
from mmlight.optim.adamw import AdamWSettings
from mmlight.optim.groups import weight_decay_groups
from mmlight.optim.schedule import Schedule
from mmlight.tasks.spec import describe_call, rebuild

CHECKPOINT_KEY = "mmlight"
CHECKPOINT_VERSION = 1


class Task(lightning.LightningModule):
    """Towers, objective and metrics, trained together.

    Subclasses build their modules in `build` (called once, from `configure_model`, so that
    sharded strategies work) and take keyword arguments only: what they were given is written
    into each checkpoint, which can therefore be loaded without any other file.

    Args:
        optimizer: AdamW's settings.
        schedule: the learning rate over the steps.
        compile: `blocks` compiles each repeated block of the towers.
    """

    _given: ClassVar[dict[str, Any]]

    def __new__(cls, **kwargs: Any) -> Self:
        """Remember the arguments, for checkpoints."""
        task = super().__new__(cls)
        object.__setattr__(task, "_given", kwargs)
        return task

    def __init__(
        self,
        *,
        optimizer: AdamWSettings,
        schedule: Schedule,
        compile: Literal["none", "blocks"] = "none",
    ) -> None:
        super().__init__()
        self.description = describe_call(type(self), self._given)
        self.optimizer_settings = optimizer
        self.schedule = schedule
        self.compile_mode = compile
        self.preprocessing: dict[str, Any] | None = None
        self._built = False
        self._configured: list[dict[str, Any]] = []

    @abstractmethod
    def build(self) -> None:
        """Create the submodules; `self.preprocessing` says what the data looks like."""

    @abstractmethod
    def no_weight_decay(self) -> set[str]:
        """Return further names of parameters that must not be decayed."""

    def rebuild_description(self) -> dict[str, Any]:
        """Return the description from which a checkpoint is loaded; it names no other file."""
        return self.description

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

    def configure_model(self) -> None:
        """Build once, however often Lightning asks."""
        if self._built:
            return
        if self._trainer is not None:
            data = getattr(self.trainer, "datamodule", None)
            if data is not None and hasattr(data, "preprocessing"):
                self.preprocessing = data.preprocessing()
        self.build()
        self._built = True

    def configure_optimizers(self) -> Any:
        """Build AdamW with weight-decay groups and the schedule, stepped at every step."""
        total_steps = self.trainer.estimated_stepping_batches
        if total_steps == float("inf"):
            raise UserError(
                "trainer.max_epochs and trainer.max_steps are both unlimited, but the schedule "
                "needs the number of steps; set one of them"
            )
        settings = self.optimizer_settings
        groups = weight_decay_groups(
            self, weight_decay=settings.weight_decay, no_decay=self.no_weight_decay()
        )
        optimizer = settings.build(groups)
        self._configured = [
            {key: value for key, value in group.items() if key != "params"}
            for group in optimizer.param_groups
        ]
        scheduler = self.schedule.build(optimizer, int(total_steps))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "lr"},
        }

    def on_train_start(self) -> None:
        """Train by the settings of this start; a checkpoint restores those of its own run."""
        configs = self.trainer.lr_scheduler_configs
        for optimizer, config in zip(self.trainer.optimizers, configs, strict=True):
            scheduler: Any = config.scheduler
            scheduler.base_lrs = [group["lr"] for group in self._configured]
            factor = scheduler.lr_lambdas[0](scheduler.last_epoch)
            for group, settings in zip(optimizer.param_groups, self._configured, strict=True):
                group.update(settings)
                group["initial_lr"] = settings["lr"]
                group["lr"] = settings["lr"] * factor

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then keep the objective's parameters in their range."""
        super().optimizer_step(*args, **kwargs)
        self.after_step()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed from (seed, epoch, step, rank): a resumed run draws the same numbers."""
        seed = int(os.environ.get("PL_GLOBAL_SEED", "0"))
        mixed = (seed * 1_000_003 + batch.epoch) * 1_000_003 + batch.step
        torch.manual_seed((mixed * 1_009 + comm.rank()) % 2**63)

    def log_gated(self, values: dict[str, Tensor]) -> None:
        """Log training values and the learning rate, in steps whose values are kept.

        A call costs 1 ms, whether or not the values are kept, so it is left out in other steps.
        """
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if (self.trainer.fit_loop.epoch_loop._batches_that_stepped + 1) % every == 0:
            lr = self.trainer.optimizers[0].param_groups[0]["lr"]
            self.log_dict(values | {"train/lr": lr}, on_step=True, on_epoch=False, batch_size=1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write what rebuilds this task and prepares its inputs."""
        checkpoint[CHECKPOINT_KEY] = {
            "version": CHECKPOINT_VERSION,
            "task": self.rebuild_description(),
            "preprocessing": self.preprocessing,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another model before anything is loaded from it."""
        self.configure_model()
        check_same_model(checkpoint["state_dict"], self.state_dict())


def check_same_model(saved: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Raise UserError, naming tensors, unless two state dicts have equal names and shapes."""
    missing = [name for name in wanted if name not in saved]
    extra = [name for name in saved if name not in wanted]
    shapes = [
        f"{name} is {tuple(saved[name].shape)}, not {tuple(wanted[name].shape)}"
        for name in wanted
        if name in saved and saved[name].shape != wanted[name].shape
    ]
    problems = []
    for title, names in (("lacks", missing), ("has besides", extra), ("differs:", shapes)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            problems.append(f"{title} {', '.join(names[:3])}{more}")
    if problems:
        raise UserError(f"the checkpoint is of another model: it {'; it '.join(problems)}")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; only tensors and plain values are ever unpickled.

    Raises:
        UserError: no such file, not a checkpoint, or not one of mmlight.
    """
    if not path.is_file():
        raise UserError(f"checkpoint {path}: no such file")
    try:
        # Mapped: a check of what it is must not read gigabytes that Lightning reads again.
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises several kinds for a damaged or unsafe file
        said = str(error).split("\n")[0]
        raise UserError(f"checkpoint {path}: cannot be read safely ({said})") from error
    if not isinstance(checkpoint, dict) or CHECKPOINT_KEY not in checkpoint:
        raise UserError(f"checkpoint {path}: was not written by mmlight")
    return checkpoint


def load_task(path: Path) -> Task:
    """Rebuild a task from its checkpoint alone, with its weights, in evaluation mode."""
    checkpoint = read_checkpoint(path)
    own = checkpoint[CHECKPOINT_KEY]
    task: Task = rebuild(own["task"], base=Task)
    task.preprocessing = own["preprocessing"]
    task.configure_model()
    check_same_model(checkpoint["state_dict"], task.state_dict())
    task.load_state_dict(checkpoint["state_dict"])
    return task.eval()
