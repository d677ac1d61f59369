"""Explanations of several samples: their means as metrics, and as rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmlight.insight.explain import Explanation
from mmlight.insight.faithfulness import Curves, mean_curves

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
        found.setdefault(RANDOM, []).append(sample.explanation.random)
    # The order of the methods, and random last.
    return {name: found[name] for name in [*(n for n in found if n != RANDOM), RANDOM]}


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
    gaps = [
        (attribution.method, attribution.gap)
        for sample in explained
        for attribution in sample.explanation.attributions
        if attribution.gap is not None
    ]
    for method in dict.fromkeys(method for method, _ in gaps):
        metrics[f"{method}_gap"] = float(np.mean([gap for name, gap in gaps if name == method]))
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
