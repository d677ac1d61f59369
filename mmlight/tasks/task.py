"""The base of all tasks: optimiser, schedule, seeds, and self-contained checkpoints."""

import inspect
import os
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast

import torch
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch import Tensor, nn
from torchmetrics import Metric

from mmlight import comm
from mmlight.batch import Batch, Modality
from mmlight.class_names import check_same_order
from mmlight.encoders.lora import merge_adapters
from mmlight.errors import UserError
from mmlight.optim.adamw import AdamWSettings, own_settings
from mmlight.optim.groups import weight_decay_groups
from mmlight.optim.schedule import Schedule
from mmlight.saved.checkpoint import (
    CHECKPOINT_KEY,
    Saved,
    check_same_model,
    own_entry,
    read_saved,
)
from mmlight.saved.description import describe_call
from mmlight.saved.locate import locate
from mmlight.saved.rebuild import rebuild
from mmlight.tasks.evaluation import Evaluated
from mmlight.tasks.extra_metrics import ExtraMetrics
from mmlight.tasks.finite_steps import FiniteSteps
from mmlight.tasks.graph import Graph
from mmlight.tasks.logged import log_to_all
from mmlight.tasks.pictures import ShownSamples
from mmlight.tasks.question import Question
from mmlight.tasks.tower import Tower, Towers, check_tower_fits
from mmlight.tasks.trained import TrainedParts
from mmlight.tasks.tuning import Tuning
from mmlight.terminal import note

Target = Literal["predicted", "true"]


class _Described:
    """Remembers its arguments, for checkpoints.

    A class of its own: jsonargparse would take a task's arguments from a `__new__` of `Task`.
    """

    _given: ClassVar[dict[str, Any]]

    def __new__(cls, **kwargs: Any) -> Self:
        """Remember the arguments."""
        made = super().__new__(cls)
        object.__setattr__(made, "_given", kwargs)
        return made


class Task(_Described, Evaluated):
    """Towers, head, objective and metrics, trained together.

    Subclasses build their modules in `build` (called once, from `configure_model`, so that
    sharded strategies work) and take keyword arguments only: what they were given is written
    into each checkpoint, which can therefore be loaded without any other file.

    Args:
        towers: an encoder for each modality.
        tuning: how much of the encoders is trained, and how fast.
        optimizer: AdamW's settings, or those of another class.
        schedule: the learning rate over the steps.
        compile: `blocks` compiles each repeated block of the towers.
        metrics: further scores by name, of torchmetrics:
            ``{f_beta: {class_path: torchmetrics.classification.FBetaScore, init_args: {...}}}`` is
            logged as ``val/f_beta``. A checkpoint keeps none of them.

    Attributes:
        preprocessing: how the data prepares inputs; plain values, kept in checkpoints.
        data: the data module, which follows the towers; the trainer's, where there is one.
        trained: which parameters are trained at which step.
        targets: what it learns from besides labels and fields: ``boxes``, or a modality without a
            tower, such as the text of transcripts. The data decodes and asks for nothing else.
        finite: which steps were left out because their gradients are not finite.
        takes_captions: whether training takes several captions of a sample at once.
        explained_targets: which answers `question` may be about, out of ``predicted`` and ``true``;
            none where answers cannot be explained.
        predicts: what `predict_step` returns: a list of rows, or ``features`` by modality, which
            `encode` gives one by one.
        has_mistakes: whether its evaluation is of labels, of which some answers are wrong.
        job_type: what training it is called in W&B.
    """

    targets: ClassVar[tuple[str, ...]] = ()
    takes_captions: ClassVar[bool] = False
    explained_targets: ClassVar[tuple[Target, ...]] = ()
    predicts: ClassVar[Literal["rows", "features"]] = "rows"
    has_mistakes: ClassVar[bool] = False
    job_type: ClassVar[Literal["pretrain", "finetune"]] = "finetune"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Keep the signature of a training step, which Lightning would inspect in each step."""
        super().__init_subclass__(**kwargs)
        if "training_step" in cls.__dict__:
            step: Any = cls.training_step
            step.__signature__ = inspect.signature(step)

    def __init__(
        self,
        *,
        towers: Towers,
        tuning: Tuning = Tuning(),  # noqa: B008  (never mutated)
        optimizer: AdamWSettings = AdamWSettings(),  # noqa: B008
        schedule: Schedule = Schedule(),  # noqa: B008
        compile: Literal["none", "blocks"] = "none",
        metrics: dict[str, Callable[[], Metric]] | None = None,
    ) -> None:
        super().__init__()
        self.metrics = ExtraMetrics(metrics or {})
        # Metrics are no part of the model: no checkpoint names their classes.
        given = {name: value for name, value in self._given.items() if name != "metrics"}
        self.description = describe_call(type(self), given)
        self.tower_settings = towers
        self.tuning = tuning
        self.optimizer_settings = optimizer
        self.schedule = schedule
        self.compile_mode = compile
        self.preprocessing: dict[str, Any] | None = None
        self.data: Any = None
        self.trained: TrainedParts | None = None
        self._built = False
        self._seed = 0
        self._configured: list[dict[str, Any]] = []
        self._unlogged: dict[str, Any] = {}
        self.finite = FiniteSteps()

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; Lightning sets the name of the hook that runs 46 times a step."""
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)  # no parameter, buffer or module
        else:
            super().__setattr__(name, value)

    @abstractmethod
    def build(self) -> None:
        """Create the submodules; `self.preprocessing` says what the data looks like."""

    def build_towers(self, *, embed_dim: int | None = None) -> None:
        """Create the towers, as `self.towers`, and check that they fit the data.

        Args:
            embed_dim: width of their projections; None leaves these out.
        """
        given = self.tower_settings.given()
        self.towers = nn.ModuleDict(
            {
                name: Tower(settings, modality=name, embed_dim=embed_dim)
                for name, settings in given.items()
            }
        )
        self._agree_on_inputs()
        if self.preprocessing is not None:
            for name in given:
                check_tower_fits(self.tower(name).encoder, self.preprocessing)

    def _agree_on_inputs(self) -> None:
        """Have the data prepare what its settings leave open as the towers want it."""
        if self.data is None or not hasattr(self.data, "follow"):
            return
        for told in self.data.follow(self._preparations()):
            if comm.rank() == 0:
                note(told)
        self.preprocessing = self.data.preprocessing()

    def _preparations(self) -> dict[Modality, Mapping[str, Any]]:
        return {name: self.tower(name).preparation for name in self.tower_settings.given()}

    def tower(self, modality: Modality) -> Tower:
        """Return a built tower."""
        return cast(Tower, self.towers[modality])

    def score_names(self) -> set[str] | None:
        """Return the names of all scores that an evaluation may have, without their stage.

        None, as for a class that does not say it, lets any metric be monitored.
        """
        return None

    def merge_adapters(self) -> int:
        """Add what adapters learned to the weights and take them out; return how many there were.

        The description then no longer asks for them.
        """
        count = merge_adapters(self)
        tuning = self.description["init_args"].get("tuning")
        if count and tuning is not None:
            self.description["init_args"]["tuning"] = {}
        return count

    def probe_rows(self, batch: Batch) -> dict[Modality, tuple[Tensor, Tensor]]:
        """Return what a probe learns from: features (M, D) and classes (M,) of each tower."""
        batch = batch.with_first_text()
        assert batch.label_B is not None
        rows: dict[Modality, tuple[Tensor, Tensor]] = {}
        for name in batch.modalities():
            if name in self.towers:
                keep_B = batch.valid_B & batch.present(name) & (batch.label_B >= 0)
                pooled_BD = self.tower(name).encoder(getattr(batch, name)).pooled_BD
                rows[name] = (pooled_BD[keep_B], batch.label_B[keep_B])
        return rows

    def check_probe(self, data: Any) -> None:
        """Raise UserError where the data lacks the labels that `probe_rows` returns."""
        if data.members.label is None:
            raise UserError("probe needs labels; name data.members.label (such as cls)")

    def encode(self, modality: Modality, inputs: Any) -> Tensor:
        """Return unit-length features of `Images`, `Text` or `Audio`; see `predicts`."""
        raise NotImplementedError

    def question(self, batch: Batch, modality: Modality, *, target: Target) -> Question | None:
        """Return what is asked about a sample when its answer is explained.

        Args:
            batch: a batch of the one sample.
            modality: the modality that is explained.
            target: out of `explained_targets`.

        Returns:
            None where there is nothing to ask about this sample.
        """
        raise NotImplementedError

    def truth(self, batch: Batch, modality: Modality) -> str:
        """Return what is right for a sample, or the text it is compared with; may be empty.

        Args:
            batch: a batch of the one sample.
            modality: the modality that is explained.
        """
        return batch.captions[0] if modality != "text" and batch.captions else ""

    def graphs(self) -> list[Graph]:
        """Return what of the task can be exported, as functions of tensors to tensors.

        Raises:
            UserError: it is no such function.
        """
        raise UserError(f"a {type(self).__name__} task has no graph to export; its weights are")

    def draw(self, evaluation: Any, folder: Path, samples: ShownSamples) -> list[Path]:
        """Draw what an evaluation found; return the files.

        Args:
            evaluation: what a validation or test left as `evaluation`.
            folder: where they go; their names begin with the evaluation's stage.
            samples: some of the evaluated samples, to be looked at.
        """
        return []

    def no_weight_decay(self) -> set[str]:
        """Return what the encoders exclude from weight decay, under this module's names."""
        return {
            f"towers.{name}.encoder.{parameter}"
            for name in self.tower_settings.given()
            for parameter in self.tower(name).encoder.no_weight_decay()
        }

    def rebuild_description(self) -> dict[str, Any]:
        """Return the description from which a checkpoint is loaded; it names no other file."""
        described = deepcopy(self.description)
        for name in self.tower_settings.given():
            encoder = self.tower(name).encoder
            described["init_args"]["towers"][name] |= {
                "encoder": describe_call(type(encoder), encoder.rebuild_args()),
                "from_run": None,
                "changes": None,
            }
        return described

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

    def has_unused_parameters(self) -> bool:
        """Whether some parameters that are ever trained get no gradient in some steps."""
        return self.trained is not None and self.trained.changes

    def on_fit_start(self) -> None:
        """Refuse settings without effect, and a DDP that would wait for what does not come."""
        assert self.trained is not None
        self.trained.check_effect()
        self.metrics.check(self.example_answers, task=type(self).__name__)
        text = getattr(getattr(self.trainer, "datamodule", None), "text", None)
        if text is not None and text.captions_per_sample > 1 and not self.takes_captions:
            raise UserError(
                f"data.text.captions_per_sample: {text.captions_per_sample} has no effect on "
                f"{type(self).__name__}, which takes one; leave it out"
            )
        strategy = self.trainer.strategy
        if not isinstance(strategy, DDPStrategy) or not self.has_unused_parameters():
            return
        if not strategy._ddp_kwargs.get("find_unused_parameters"):
            raise UserError(
                f"trainer.strategy {type(strategy).__name__} would wait for parameters that get no "
                "gradient; use trainer.strategy: ddp, which looks for them"
            )

    def configure_model(self) -> None:
        """Build once, however often Lightning asks."""
        if self._built:
            data = self._trainer and getattr(self._trainer, "datamodule", None)
            if data is not None and data is not self.data and hasattr(data, "follow"):
                data.follow(self._preparations())  # of another trainer
            return
        if self._trainer is not None:
            self.data = getattr(self.trainer, "datamodule", None)
        if self.data is not None and hasattr(self.data, "preprocessing"):
            self.preprocessing = self.data.preprocessing()
        self.build()
        self.trained = TrainedParts(
            self,
            {name: self.tower(name) for name in self.tower_settings.given()},
            tuning=self.tuning,
            lr=self.optimizer_settings.lr,
        )
        if self.compile_mode == "blocks":
            for name in self.tower_settings.given():
                self.tower(name).compile_blocks()
        self._built = True

    def configure_optimizers(self) -> Any:
        """Build the optimiser with weight-decay groups, and the schedule, stepped at every step."""
        total_steps = self.trainer.estimated_stepping_batches
        if total_steps == float("inf"):
            raise UserError(
                "trainer.max_epochs and trainer.max_steps are both unlimited, but the schedule "
                "needs the number of steps; set one of them"
            )
        settings = self.optimizer_settings
        assert self.trained is not None
        groups = weight_decay_groups(
            self,
            weight_decay=settings.weight_decay,
            no_decay=self.no_weight_decay(),
            lr=settings.lr,
            lr_scales=self.trained.lr_scales,
        )
        optimizer = settings.build(groups)
        self._configured = own_settings(optimizer)
        scheduler = self.schedule.build(optimizer, int(total_steps))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "lr"},
        }

    def on_train_start(self) -> None:
        """Train by the settings of this start; a checkpoint restores those of its own run."""
        assert self.trained is not None
        self._seed = int(os.environ.get("PL_GLOBAL_SEED", "0"))
        self.trained.begin(self.global_step)
        self.train()
        for line in self.trained.notes:
            self.print(line)
        self.print(self.trained.summary())
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

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Go backward; where losses are scaled, note whether this one is finite."""
        if self._scales_loss():
            self.finite.note_loss(loss)
        super().backward(loss, *args, **kwargs)

    def _scales_loss(self) -> bool:
        plugin = self.trainer.precision_plugin
        return isinstance(plugin, MixedPrecision) and plugin.scaler is not None

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed from (seed, epoch, step, rank): a resumed run draws the same numbers."""
        assert self.trained is not None
        if self.trained.begin(self.global_step):
            self.train()
            self.print(f"step {self.global_step}: {self.trained.summary()}")
        mixed = (self._seed * 1_000_003 + batch.epoch) * 1_000_003 + batch.step
        _seed_generators((mixed * 1_009 + comm.rank()) % 2**63)

    def may_read(self, tensor: Tensor) -> bool:
        """Tell whether a check may read values: on a GPU in every hundredth step of training.

        Reading waits until the GPU has done all that it was given.
        """
        return not (tensor.is_cuda and self.training and self.global_step % 100)

    def log_gated(self, values: dict[str, Tensor]) -> None:
        """Log training values and the learning rate, in steps whose values are kept.

        Callbacks find them at once; loggers get them when the step is done.
        """
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if (self.trainer.fit_loop.epoch_loop._batches_that_stepped + 1) % every == 0:
            rates = [group["lr"] for group in self.trainer.optimizers[0].param_groups]
            lrs = {"train/lr": max(rates)}
            if min(rates) < max(rates):
                lrs["train/lr_lowest"] = min(rates)
            self._unlogged = values | lrs
            self.trainer.callback_metrics.update(
                {name: torch.as_tensor(value) for name, value in self._unlogged.items()}
            )

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Give the loggers what `log_gated` was told."""
        self.log_step()

    def log_step(self) -> None:
        """Give the loggers what `log_gated` was told, once; on all ranks, after a step.

        A checkpoint of the step has it done first: what goes on from it does not log it again.
        """
        # Batches whose gradients are only accumulated belong to a step that is not done.
        if self._unlogged and not self.trainer.fit_loop._should_accumulate():
            values = {name: float(value) for name, value in self._unlogged.items()}
            self._unlogged = {}
            log_to_all(self.trainer, values)

    def log_with_step(self, values: Mapping[str, float]) -> None:
        """Have values go to the loggers in the row of the step that is being done.

        Args:
            values: what a callback found at the end of a batch with which a step was done.
        """
        self._unlogged |= values

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; what is not trained stays in evaluation mode."""
        super().train(mode)
        if mode and self.trained is not None:
            self.trained.rest()
        return self

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write what rebuilds this task and prepares its inputs."""
        checkpoint[CHECKPOINT_KEY] = own_entry(self.rebuild_description(), self.preprocessing)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another model before anything is loaded from it."""
        self.configure_model()
        check_same_model(checkpoint["state_dict"], self.state_dict())
        if names := getattr(self, "class_names", None):  # where answers are classes
            kept = checkpoint.get(CHECKPOINT_KEY, {}).get("preprocessing") or {}
            check_same_order(names, kept.get("class_names"))


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


def load_task(path: str | Path, *, trust: Sequence[str] = ()) -> Task:
    """Rebuild a task from what is on disk of it alone, with its weights, in evaluation mode.

    Args:
        path: a run's folder, a checkpoint or an export (see `mmlight.saved.locate.locate`).
        trust: modules, besides mmlight's, whose classes it may name (see `mmlight.own_modules`).

    Raises:
        UserError: as `locate`, `read_saved` and `build_task`; it names the file.
    """
    found = locate(path, key="path").path
    saved = read_saved(found)
    try:
        return build_task(saved, trust=trust)
    except UserError as error:
        raise UserError(f"{found}: {error}") from error


def build_task(saved: Saved, *, trust: Sequence[str] = ()) -> Task:
    """Rebuild a task from what was read of it, with its weights, in evaluation mode.

    Args:
        saved: what was read.
        trust: as for `load_task`.

    Raises:
        UserError: a description that names what it must not, or that this version cannot build.
    """
    task: Task = rebuild(saved.description, base=Task, trust=trust)
    task.preprocessing = saved.preprocessing
    try:
        task.configure_model()
    except UserError:
        raise
    except Exception as error:  # sizes that do not go together meet any kind of error
        said = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"the checkpoint's model cannot be built: {said[:300]}") from error
    check_same_model(saved.tensors, task.state_dict())
    task.load_state_dict(saved.tensors)
    return task.eval()


def saved_task(saved: str) -> Task:
    """Return the task that a checkpoint describes, without its weights.

    A configuration names this function where the checkpoint itself says what the model is.

    Args:
        saved: the checkpoint.
    """
    own: Task = rebuild(read_saved(Path(saved)).description, base=Task)
    return own
