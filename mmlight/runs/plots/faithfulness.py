"""Deletion and insertion curves of explanations, beside those of a random order."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmlight.runs.plots.canvas import COLORS, new_figure, save, style


@dataclass(frozen=True)
class MeanCurves:
    """What the model says as a sample's parts go and come, averaged over samples.

    Attributes:
        fraction_N: share of the parts, from 0 to 1.
        deletion_N: confidence with that share taken away.
        insertion_N: confidence with only that share there.
        deletion_auc: area under the first.
        insertion_auc: area under the second.
    """

    fraction_N: np.ndarray
    deletion_N: np.ndarray
    insertion_N: np.ndarray
    deletion_auc: float
    insertion_auc: float


def plot_faithfulness(
    curves: Mapping[str, MeanCurves], path: Path, *, modality: str, num_samples: int
) -> Path:
    """Draw the curves of each method; `random` is drawn dotted.

    Args:
        curves: by method.
        path: the PNG to write.
        modality: what was explained.
        num_samples: how many samples the curves are a mean of.
    """
    figure = new_figure(width=9.6, height=3.8)
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, kind, better in ((left, "deletion", "lower"), (right, "insertion", "higher")):
        for number, (method, mean) in enumerate(curves.items()):
            is_random = method == "random"
            axes.plot(
                mean.fraction_N,
                mean.deletion_N if kind == "deletion" else mean.insertion_N,
                color="#555555" if is_random else COLORS[number % len(COLORS)],
                linestyle=":" if is_random else "-",
                linewidth=1.7,
                label=f"{method.replace('_', ' ')}: {getattr(mean, f'{kind}_auc'):.3f}",
            )
        style(axes)
        axes.set_xlim(0, 1)
        axes.set_title(f"{kind} (area, {better} is better)", fontsize=10, loc="left")
        verb = "taken away" if kind == "deletion" else "put back"
        axes.set_xlabel(f"share of the {modality} {verb}, most important first", fontsize=9)
        axes.legend(fontsize=8, frameon=False)
    left.set_ylabel(f"model's confidence, mean of {num_samples} samples", fontsize=9)
    return save(figure, path)
