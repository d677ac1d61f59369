"""The base of all tasks: optimiser, schedule, seeds, and self-contained checkpoints."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast

from torch import Tensor, nn
from torchmetrics import Metric

from mmlight import comm
from mmlight.batch import Batch
from mmlight.class_names import check_same_order
from mmlight.decoders.answer import Answer
from mmlight.decoders.sampling import Sampling
from mmlight.encoders.lora import merge_adapters
from mmlight.errors import UserError
from mmlight.modality import Modality
from mmlight.objectives.objective import Loss
from mmlight.optim.adamw import AdamWSettings
from mmlight.optim.groups import weight_decay_groups
from mmlight.optim.schedule import Schedule
from mmlight.saved.checkpoint import CHECKPOINT_KEY, check_same_model, own_entry
from mmlight.saved.description import describe_call
from mmlight.tasks.evaluation import Evaluated
from mmlight.tasks.extra_metrics import ExtraMetrics
from mmlight.tasks.graph import Graph
from mmlight.tasks.pictures import ShownSamples
from mmlight.tasks.question import Question
from mmlight.tasks.source import Source
from mmlight.tasks.source_losses import source_losses
from mmlight.tasks.takes import check_captions, check_rows
from mmlight.tasks.tower import (
    PIECES,
    Tower,
    Towers,
    check_tower_fits,
    has_pieces,
    kept_preparation,
)
from mmlight.tasks.trained import TrainedParts
from mmlight.tasks.tuning import Tuning
from mmlight.terminal import note
from mmlight.trainer.loop import is_logged
from mmlight.trainer.module import ShardedPart

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
        origins: of parts besides the towers that are not new, a line that says where they are from.
        targets: what it learns from besides labels and fields: ``boxes``, or a modality without a
            tower, such as the text of transcripts. The data decodes and asks for nothing else.
        takes_captions: whether training takes several captions of a sample at once.
        takes_documents: whether it takes texts that are packed or in windows
            (`data.text.documents`), of which a sample has several rows, or a part of one.
        takes_masked: whether it takes texts of which tokens are hidden (`data.text.masking`).
        explained_targets: which answers `question` may be about, out of ``predicted`` and ``true``;
            none where answers cannot be explained.
        predicts: what `predict_step` returns: a list of rows, or ``features`` by modality, which
            `encode` gives one by one.
        has_mistakes: whether its evaluation is of labels, of which some answers are wrong.
        job_type: what training it is called in W&B.
    """

    targets: ClassVar[tuple[str, ...]] = ()
    takes_captions: ClassVar[bool] = False
    takes_documents: ClassVar[bool] = False
    takes_masked: ClassVar[bool] = False
    explained_targets: ClassVar[tuple[Target, ...]] = ()
    predicts: Literal["rows", "features"] = "rows"
    has_mistakes: ClassVar[bool] = False
    job_type: ClassVar[Literal["pretrain", "finetune"]] = "finetune"

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
        self.origins: dict[str, str] = {}
        self._built = False
        self._sources: Sequence[str] = ()  # of the batch that is trained on

    @abstractmethod
    def build(self) -> None:
        """Create the submodules; `self.preprocessing` says what the data looks like."""

    def build_towers(
        self,
        *,
        embed_dim: int | None = None,
        sources: Mapping[Modality, Source] | None = None,
    ) -> None:
        """Create the towers, as `self.towers`, and check that they fit the data.

        Args:
            embed_dim: width of their projections; None leaves these out.
            sources: towers of a model that the task begins with.
        """
        given = self.tower_settings.given()
        self.towers = nn.ModuleDict(
            {
                name: Tower(
                    settings,
                    modality=name,
                    embed_dim=embed_dim,
                    source=(sources or {}).get(name),
                )
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
        for line in self.data.follow(self._preparations()):
            if comm.rank() == 0:
                note(line)
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
                pooled_BD = self.tower(name).pooled(getattr(batch, name))
                rows[name] = (pooled_BD[keep_B], batch.label_B[keep_B])
        return rows

    def check_probe(self, data: Any) -> None:
        """Raise UserError where the data lacks the labels that `probe_rows` returns."""
        if data.members.label is None:
            raise UserError("probe needs labels; name data.members.label (such as cls)")

    def encode(self, modality: Modality, inputs: Any) -> Tensor:
        """Return unit-length features of `Images`, `Text` or `Audio`; see `predicts`."""
        raise NotImplementedError

    def example_fields(self, num_words: int) -> dict[str, Any]:
        """Return a value of each further member that training reads, to count a step without data.

        Args:
            num_words: of the text ``a a a ...`` that stands for a sample's.
        """
        return {}

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

    def generate(
        self,
        prompts: Sequence[str],
        sampling: Sampling,
        *,
        rows: Sequence[int] | None = None,
        on_text: Callable[[int, str], None] | None = None,
    ) -> list[Answer]:
        """Return what the model says to each prompt; it must be in evaluation mode.

        Args:
            prompts: one or more, answered together; answers do not depend on that.
            sampling: how answers are chosen.
            rows: the number of each prompt, from which its random numbers are made; by default its
                place.
            on_text: told each prompt's place and a piece of its answer, as soon as there is one.

        Raises:
            UserError: a task that answers no prompts, or a prompt without any token.
        """
        raise UserError(
            f"a {type(self).__name__} task answers no prompts; mmlight.tasks.causal_language does"
        )

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

    def log_loss(self, loss: Loss) -> Tensor:
        """Log a training step's loss, also by source, and what stands beside it; return it."""
        beside = loss.logs
        if self._sources and is_logged(self.trainer, step=self.global_step + 1):
            names = self.datamodule.source_names("train")
            beside = beside | source_losses(loss, self._sources, names)
        logged = {f"train/{name}": value for name, value in beside.items()}
        self.log_gated({"train/loss": loss.value.detach()} | logged)
        return loss.value

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
                "pieces": self.tower(name).piece_pool.kind if name != "text" else None,
                "from_run": None,
                "changes": None,
            }
        return described

    def unfreezes(self) -> bool:
        """Return whether more parameters are trained later on."""
        return self.trained is not None and self.trained.changes

    def sharded_parts(self) -> Iterator[ShardedPart]:
        """Yield towers, by their repeated blocks, and what stands behind them.

        The task as a whole is not one of them: callbacks call its towers outside of its steps.
        """
        for modality in self.tower_settings.given():
            tower = self.tower(modality)
            blocks = [
                m for block in tower.encoder.blocks() if block.repeated for m in block.modules
            ]
            yield ShardedPart(tower.encoder, blocks)
            yield ShardedPart(tower.projection)
            yield ShardedPart(tower.piece_pool)
        for name, child in self.named_children():
            if name != "towers":
                # A temperature would lose its digits in bfloat16.
                yield ShardedPart(child, is_exact=name == "objective")

    def on_fit_start(self) -> None:
        """Refuse settings without effect."""
        assert self.trained is not None
        self.trained.check_effect()
        if self.datamodule is not None:
            self.check_pools(self.datamodule)
        self.metrics.check(self.example_answers, task=type(self).__name__)
        check_captions(getattr(self.datamodule, "text", None), self)
        super().on_fit_start()

    def configure_model(self) -> None:
        """Build once, however often Lightning asks."""
        if self._built:
            data = self.datamodule
            if data is not None and data is not self.data and hasattr(data, "follow"):
                # Of another trainer; the model may be a checkpoint's, and knows no more than that.
                kept = self.preprocessing or {}
                own = self._preparations()
                data.follow({m: kept_preparation(kept.get(m)) | dict(own[m]) for m in own})
            self._check_taken(data)
            return
        if self.datamodule is not None:
            self.data = self.datamodule
        if self.data is not None and hasattr(self.data, "preprocessing"):
            self.preprocessing = self.data.preprocessing()
        self.build()
        self._check_taken(self.data)
        self.trained = TrainedParts(
            self,
            {name: self.tower(name) for name in self.tower_settings.given()},
            tuning=self.tuning,
            lr=self.optimizer_settings.lr,
            origins=self.origins,
        )
        if self.compile_mode == "blocks":
            for name in self.tower_settings.given():
                self.tower(name).compile_blocks()
        self._built = True

    def _check_taken(self, data: Any) -> None:
        """Refuse what the task does not take."""
        check_rows(getattr(data, "text", None), self)
        self.check_pieces(data)

    @property
    def takes_pieces(self) -> bool:
        """Whether samples may have several images or sounds: `Tower.pooled` makes one of them."""
        return False

    def check_pieces(self, data: Any) -> None:
        """Refuse samples of several images or sounds that the task does not take.

        Args:
            data: whose settings say whether there are any.
        """
        for name in () if self.takes_pieces else self.tower_settings.given():
            if has_pieces(data, name):
                raise UserError(
                    f"data.{name}.{PIECES[name]}: {type(self).__name__}, as it is set here, reads "
                    f"the tokens of one {name} per sample, which are not pooled over several; "
                    "leave it out"
                )

    def check_pools(self, data: Any) -> None:
        """Refuse a pooling over pieces of samples that have none.

        In training alone: a checkpoint names its pooling, and may be shown one image each.
        """
        for name, tower in self.tower_settings.given().items():
            if tower.pieces is not None and not has_pieces(data, name):
                raise UserError(
                    f"model.towers.{name}.pieces has no effect without data.{name}.{PIECES[name]}"
                )

    def configure_optimizers(self) -> Any:
        """Build the optimiser with weight-decay groups, and the schedule, stepped at every step."""
        total_steps = self.total_steps()
        settings = self.optimizer_settings
        assert self.trained is not None
        groups = weight_decay_groups(
            self,
            weight_decay=settings.weight_decay,
            no_decay=self.no_weight_decay(),
            rule=settings.no_decay,
            lr=settings.lr,
            lr_scales=self.trained.lr_scales,
            embeddings_apart=settings.embeddings_apart,
        )
        optimizer = settings.build(groups)
        self.keep_settings(optimizer)
        scheduler = self.schedule.build(optimizer, total_steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "lr"},
        }

    def on_train_start(self) -> None:
        """Say what is trained, and train it."""
        assert self.trained is not None
        self.trained.begin(self.global_step)
        self.train()
        for line in self.trained.notes:
            self.print(line)
        self.print(self.trained.summary())
        super().on_train_start()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Train what is trained in this step."""
        assert self.trained is not None
        self._sources = batch.sources
        if self.trained.begin(self.global_step):
            self.train()
            self.print(f"step {self.global_step}: {self.trained.summary()}")
        super().on_train_batch_start(batch, batch_idx)

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
