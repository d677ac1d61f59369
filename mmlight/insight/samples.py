"""Explains samples of a split, spread evenly over it: their means as metrics, and as rows.

Shapes: R rows and K columns of a canvas.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mmlight.batch import Batch
from mmlight.encoders.encoder import eval_mode
from mmlight.insight.explain import Explanation, explain
from mmlight.insight.faithfulness import mean_curves
from mmlight.insight.settings import ExplainSettings
from mmlight.insight.subject import Subject
from mmlight.insight.units import Tokens
from mmlight.modality import Modality
from mmlight.runs.plots.canvas import spread
from mmlight.runs.plots.examples import spectrogram_db
from mmlight.runs.plots.faithfulness import Curves
from mmlight.tasks.task import Task

RANDOM = "random"


@dataclass(frozen=True)
class Explained:
    """A sample with its explanation.

    Attributes:
        number: the sample's number in its data set.
        key: ``shard-name/sample-key``.
        truth: what is right, or what the sample is compared with; may be empty.
        explanation: what the methods say.
        picture: an image (H, W, C) of uint8, or a spectrogram with as many columns as the real
            part of the canvas, lowest band first; None for a text.
        waveform_T: a sound's samples, without padding; None for other modalities.
        seconds: its duration; None for other modalities.
        pieces: a text's tokens, each with the white space in front of it; empty otherwise.
    """

    number: int
    key: str
    truth: str
    explanation: Explanation
    picture: np.ndarray | None = None
    waveform_T: np.ndarray | None = None
    seconds: float | None = None
    pieces: tuple[str, ...] = ()

    @property
    def about(self) -> str:
        """The answer that is explained, with the model's confidence."""
        return f"{self.explanation.about} ({self.explanation.confidence:.2f})"


def curves_by_method(explained: Sequence[Explained]) -> dict[str, list[Curves]]:
    """Return every sample's curves by method, those of random orders as `random`."""
    found: dict[str, list[Curves]] = {}
    for sample in explained:
        for attribution in sample.explanation.attributions:
            found.setdefault(attribution.method, []).append(attribution.curves)
    return found | {RANDOM: [sample.explanation.random for sample in explained]}


def mean_by_method(explained: Sequence[Explained]) -> dict[str, Curves]:
    """Return the mean curves by method."""
    return {name: mean_curves(curves) for name, curves in curves_by_method(explained).items()}


def metrics_of(explained: Sequence[Explained]) -> dict[str, float]:
    """Return means over samples.

    ``<method>_deletion_auc`` (lower is better) and ``<method>_insertion_auc`` for each method and
    for `random`; ``integrated_gradients_gap``, by which part their sums miss the scores.
    """
    metrics = {}
    for name, curves in curves_by_method(explained).items():
        metrics[f"{name}_deletion_auc"] = float(np.mean([c.deletion_auc for c in curves]))
        metrics[f"{name}_insertion_auc"] = float(np.mean([c.insertion_auc for c in curves]))
    attributions = [a for sample in explained for a in sample.explanation.attributions]
    gaps = [attribution.gap for attribution in attributions if attribution.gap is not None]
    if gaps:
        metrics["integrated_gradients_gap"] = float(np.mean(gaps))
    return metrics


def rows_of(explained: Sequence[Explained], *, modality: str) -> list[dict[str, Any]]:
    """Return a row per sample and method, of plain values.

    Args:
        explained: the samples.
        modality: what was explained.
    """
    return [
        {
            "key": sample.key,
            "number": sample.number,
            "modality": modality,
            "answer": sample.explanation.about,
            "confidence": sample.explanation.confidence,
            "truth": sample.truth,
            "method": attribution.method,
            "deletion_auc": attribution.curves.deletion_auc,
            "insertion_auc": attribution.curves.insertion_auc,
            "random_deletion_auc": sample.explanation.random.deletion_auc,
            "random_insertion_auc": sample.explanation.random.insertion_auc,
            "gap": attribution.gap,
            "units": _units(sample),
            "importance": [float(f"{value:.4g}") for value in attribution.importance_U.tolist()],
        }
        for sample in explained
        for attribution in sample.explanation.attributions
    ]


def _units(sample: Explained) -> Any:
    """A text's tokens; the number of units of an image or a sound, one row after another."""
    said = [piece.strip() for piece in sample.pieces if piece.strip()]
    return said or len(sample.explanation.attributions[0].importance_U)


def explain_samples(
    task: Task, data: Any, *, split: str, modality: Modality, settings: ExplainSettings
) -> Iterator[Explained]:
    """Explain a model's answers for some samples, in evaluation mode.

    Samples that lack the modality, or about which there is nothing to ask, are passed over.

    Args:
        task: a model whose answers can be explained (`Task.explained_targets`).
        data: a data module whose split is open (`batch_of`, `num_samples`).
        split: `val` or `test`.
        modality: what is explained.
        settings: what is explained, and how finely.

    Raises:
        UserError: a method that does not suit the encoder.
    """
    # Lightning evaluates in inference mode, which gradients cannot leave.
    with torch.inference_mode(False), eval_mode(task):
        for number in spread(data.num_samples(split), settings.num_samples):
            batch = data.batch_of(split, [number]).to(task.device)
            if not bool(batch.valid_B[0]) or not bool(batch.present(modality)[0]):
                continue
            question = task.question(batch, modality, target=settings.target)
            if question is None:
                continue
            subject = Subject(task, batch, modality, question, batch_size=settings.batch_size)
            tokens = _tokens(data.text, batch) if modality == "text" else None
            seed = settings.seed * 1_000_003 + number
            explanation = explain(subject, settings, tokens=tokens, seed=seed)
            waveform_T = _waveform(batch) if modality == "audio" else None
            picture = _look(subject, explanation.canvas_RK, waveform_T)
            yield Explained(
                number=number,
                key=batch.keys[0],
                truth=task.truth(batch, modality),
                explanation=explanation,
                picture=picture,
                waveform_T=waveform_T,
                seconds=None if waveform_T is None else len(waveform_T) / data.audio.rate_hz,
                pieces=tuple(tokens.pieces) if tokens is not None else (),
            )


def _tokens(text: Any, batch: Batch) -> Tokens:
    """Cut the first caption as the data did; a piece begins where the one before it ended."""
    caption = batch.captions[0]
    tokenizer = text.known_tokenizer
    encoding = tokenizer.encode_batch([caption], max_tokens=text.most_tokens, offsets=True)
    pieces, reached = [], 0
    for start, end in encoding.offsets_NL2[0].tolist():
        # Bytes of one character share its place.
        pieces.append((caption[reached:end] or "\u00b7") if end > start else "")
        reached = max(reached, end)
    mask_id = tokenizer.mask_id
    return Tokens(pieces, tokenizer.pad_id if mask_id is None else mask_id)


def _waveform(batch: Batch) -> np.ndarray:
    assert batch.audio is not None
    wave_T = batch.audio.waveform_BT[0, : int(batch.audio.length_B[0])]
    return np.asarray(wave_T.float().cpu().numpy())


def _look(
    subject: Subject, canvas_RK: np.ndarray, waveform_T: np.ndarray | None
) -> np.ndarray | None:
    """Return what the sample looks like."""
    batch = subject.batch
    if subject.modality == "image":
        assert batch.image is not None
        return batch.image.pixels_BCHW[0].permute(1, 2, 0).cpu().numpy()
    if waveform_T is None:
        return None
    if len(canvas_RK) == 1:
        return spectrogram_db(waveform_T, num_fft=256)
    return canvas_RK[:, : int(subject.canvas.real_B[0])]
