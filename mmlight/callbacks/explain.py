"""Explains answers when a test, a validation or training ends: maps, metrics, pictures."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import lightning.pytorch as pl
import numpy as np
import torch

from mmlight.batch import MODALITIES, Batch, Modality
from mmlight.callbacks.explain_pictures import draw_explanations
from mmlight.callbacks.run_logger import send_pictures
from mmlight.encoders.eval_mode import eval_mode
from mmlight.errors import UserError, nearest
from mmlight.insight.blank import ImageBlank
from mmlight.insight.explain import METHODS, Effort, Method, explain
from mmlight.insight.explained import Explained, metrics_of, rows_of
from mmlight.insight.gradients import require_captum
from mmlight.insight.subject import (
    ClassQuestion,
    PairQuestion,
    Question,
    Subject,
    check_task,
    partner_of,
)
from mmlight.insight.units import Tokens
from mmlight.runs.plots.examples import spectrogram_db
from mmlight.runs.run import RunFolder
from mmlight.runs.stage_rows import write_stage_rows
from mmlight.tasks.classification import Classification


class Explain(pl.Callback):
    """Shows what a model's answers rest on, and whether that is true (deletion and insertion).

    A classifier's answer is a class; a contrastive model's is the similarity of a sample's image or
    sound to its text (of its text to another modality). Attention maps, rollout, Grad-CAM and
    integrated gradients share it out over patches, tokens and pieces of the spectrogram. Beside
    each stand the areas under its deletion and insertion curves (arXiv 1806.07421), and those of a
    random order. The kernels that training uses stay as they are.

    Pictures go to `plots/`, numbers to `explanations.jsonl` of the run folder, means to the metrics
    (``test/explain/image_rollout_deletion_auc``). It happens at the end of a test, of a validation
    on its own, and of training where there is a validation set.

    Args:
        methods: attention (the last layer's), rollout, grad_cam, integrated_gradients; None takes
            those that suit each tower (Grad-CAM is for images and sounds).
        modalities: which towers; None takes all.
        num_samples: samples that are explained, spread evenly over the set.
        num_drawn: how many of them are drawn.
        target: a classifier's answer to explain: the class that it predicts, or the true one.
        image_blank: what an image becomes where something is taken away, and where integrated
            gradients begin: the mean of the normalisation, black, or a blur of the image. Tokens
            become the mask token (padding where there is none), spectrograms their quietest value.
        gradient_steps: most points of the integral of integrated gradients.
        curve_steps: steps of the curves.
        random_orders: random orders to compare with.
        batch_size: versions of a sample that go through the model at once.
        seed: seed of the random orders.
    """

    def __init__(
        self,
        methods: list[Method] | None = None,
        modalities: list[Modality] | None = None,
        num_samples: int = 16,
        num_drawn: int = 6,
        target: Literal["predicted", "true"] = "predicted",
        image_blank: ImageBlank = "mean",
        gradient_steps: int = 512,
        curve_steps: int = 16,
        random_orders: int = 3,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        for name in methods or ():
            if name not in METHODS:
                raise UserError(f"explain.methods: no '{name}'{nearest(name, METHODS)}")
        if methods is not None and not methods:
            raise UserError(f"explain.methods is empty; name some of {', '.join(METHODS)}")
        for name, value in {
            "num_samples": num_samples,
            "num_drawn": num_drawn,
            "gradient_steps": gradient_steps,
            "curve_steps": curve_steps,
            "random_orders": random_orders,
            "batch_size": batch_size,
        }.items():
            if value < 1:
                raise UserError(f"explain.{name} is {value}; it must be 1 or more")
        if image_blank not in get_args(ImageBlank):
            raise UserError(f"explain.image_blank: use one of {', '.join(get_args(ImageBlank))}")
        if methods is None or "integrated_gradients" in methods:
            require_captum()
        self.methods = methods
        self.modalities = modalities
        self.num_samples = num_samples
        self.num_drawn = num_drawn
        self.target = target
        self.image_blank: ImageBlank = image_blank
        self.effort = Effort(gradient_steps, curve_steps, random_orders)
        self.batch_size = batch_size
        self.seed = seed

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse tasks and towers that cannot be explained."""
        check_task(pl_module)
        towers = pl_module.tower_settings.given()  # type: ignore[operator, union-attr]
        for name in self.modalities or ():
            if name not in towers:
                raise UserError(
                    f"explain.modalities names {name}, but the model has towers for "
                    f"{', '.join(towers)}"
                )
        if self.image_blank != "mean" and "image" not in (self.modalities or towers):
            raise UserError("explain.image_blank has no effect: no image is explained")
        if self.target != "predicted" and not isinstance(pl_module, Classification):
            raise UserError("explain.target has no effect on a contrastive model")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Explain samples of the test set."""
        self._explain(trainer, pl_module, "test")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Explain samples of the validation set, unless this is one of many validations."""
        if trainer.state.fn == "validate":
            self._explain(trainer, pl_module, "val")

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Explain samples of the validation set; averaged weights are in place by now."""
        if trainer.num_val_batches and sum(trainer.num_val_batches):
            self._explain(trainer, pl_module, "val")

    def _explain(self, trainer: pl.Trainer, task: Any, stage: str) -> None:
        """Every rank does all of it: a sharded model needs them all, and none waits for another."""
        given = task.tower_settings.given()
        rows: list[dict[str, Any]] = []
        run = RunFolder(Path(trainer.default_root_dir))
        for modality in MODALITIES:
            if modality not in given or modality not in (self.modalities or given):
                continue
            # Lightning evaluates in inference mode, which gradients cannot leave.
            with torch.inference_mode(False), eval_mode(task):
                explained = list(self._samples(trainer, task, modality, stage))
            if not explained:
                continue
            metrics = {
                f"{stage}/explain/{modality}_{name}": value
                for name, value in metrics_of(explained).items()
            }
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=trainer.global_step)
            if trainer.is_global_zero:
                rows += rows_of(explained, modality=modality)
                pictures = draw_explanations(
                    explained,
                    run.plots,
                    stage=stage,
                    modality=modality,
                    num_drawn=self.num_drawn,
                )
                send_pictures(trainer, pictures)
        if trainer.is_global_zero:
            write_stage_rows(run.explanations, rows, stage=stage)

    def _samples(
        self, trainer: pl.Trainer, task: Any, modality: Modality, stage: str
    ) -> Iterator[Explained]:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        size = data.num_samples(stage)
        for number in np.unique(np.linspace(0, size - 1, min(size, self.num_samples), dtype=int)):
            batch = data.batch_of(stage, [int(number)]).to(task.device)
            if not bool(batch.valid_B[0]) or not bool(batch.present(modality)[0]):
                continue
            question = self._question(task, batch, modality)
            if question is None:
                continue
            subject = Subject(task, batch, modality, question, batch_size=self.batch_size)
            tokens = (
                _tokens(data.tokenizer, data.text.max_tokens, batch) if modality == "text" else None
            )
            explanation = explain(
                subject,
                methods=self.methods,
                tokens=tokens,
                image_blank=self.image_blank,
                effort=self.effort,
                seed=self.seed * 1_000_003 + int(number),
            )
            picture, seconds = _look(subject, explanation.canvas_RK, data.audio)
            yield Explained(
                number=int(number),
                key=batch.keys[0],
                truth=_truth(task, batch, modality),
                explanation=explanation,
                picture=picture,
                seconds=seconds,
                pieces=tuple(tokens.pieces) if tokens is not None else (),
            )

    @torch.no_grad()
    def _question(self, task: Any, batch: Batch, modality: Modality) -> Question | None:
        """Return what is asked about a sample, or None where there is nothing to ask."""
        if not isinstance(task, Classification):
            partner = partner_of(task, modality)
            if getattr(batch, partner) is None or not bool(batch.present(partner)[0]):
                return None
            return PairQuestion(task, modality, partner)
        number = int(task.logits(batch)[0].argmax())
        if self.target == "true":
            labels = task.labels(batch)[0]
            if bool((labels < 0).any()):
                return None
            # Of several labels the first.
            number = int(labels) if labels.ndim == 0 else int(labels.argmax())
        return ClassQuestion(task, number, name=_class_name(task, number))


def _class_name(task: Classification, number: int) -> str:
    return task.class_names[number] if task.class_names else f"class {number}"


def _truth(task: Any, batch: Batch, modality: Modality) -> str:
    if not isinstance(task, Classification):
        return batch.captions[0] if modality != "text" and batch.captions else ""
    if batch.label_B is None and task.label_field is None:
        return ""
    labels = task.labels(batch)[0]
    numbers = [int(labels)] if labels.ndim == 0 else labels.clamp(min=0).nonzero()[:, 0].tolist()
    names = [_class_name(task, number) for number in numbers if number >= 0]
    return f"is {', '.join(names)}" if names else ""


def _tokens(tokenizer: Any, max_tokens: int, batch: Batch) -> Tokens:
    """Cut the first caption as the data did; a piece begins where the one before it ended."""
    caption = batch.captions[0]
    encoding = tokenizer.encode_batch([caption], max_tokens=max_tokens, offsets=True)
    pieces, reached = [], 0
    for start, end in encoding.offsets_NL2[0].tolist():
        # Bytes of one character share its place.
        pieces.append((caption[reached:end] or "\u00b7") if end > start else "")
        reached = max(reached, end)
    mask_id = tokenizer.mask_id
    return Tokens(pieces, tokenizer.pad_id if mask_id is None else mask_id)


def _look(
    subject: Subject, canvas_RK: np.ndarray, audio: Any
) -> tuple[np.ndarray | None, float | None]:
    """Return what the sample looks like, and how long a sound is."""
    batch = subject.batch
    if subject.modality == "image":
        assert batch.image is not None
        return batch.image.pixels_BCHW[0].permute(1, 2, 0).cpu().numpy(), None
    if subject.modality == "text":
        return None, None
    assert batch.audio is not None
    length = int(batch.audio.length_B[0])
    seconds = length / audio.sample_rate_hz
    if len(canvas_RK) == 1:
        wave = batch.audio.waveform_BT[0, :length].cpu().numpy()
        return spectrogram_db(wave, num_fft=256), seconds
    return canvas_RK[:, : int(subject.canvas.real_B[0])], seconds
