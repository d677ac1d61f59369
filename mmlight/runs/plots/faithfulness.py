"""Deletion and insertion curves of explanations, beside those of a random order."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmlight.runs.plots.canvas import COLORS, new_figure, save, style


@dataclass(frozen=True)
class Curves:
    """What the model still says as units go, and what it says as they come (arXiv 1806.07421).

    Attributes:
        fraction_N: share of the units taken away, or put back; from 0 to 1.
        deletion_N: confidence with the first units taken away; a good explanation makes it fall.
        insertion_N: confidence with only the first units there; a good one makes it rise.
    """

    fraction_N: np.ndarray
    deletion_N: np.ndarray
    insertion_N: np.ndarray

    @property
    def deletion_auc(self) -> float:
        """Area under the deletion curve; lower is better."""
        return float(np.trapezoid(self.deletion_N, self.fraction_N))

    @property
    def insertion_auc(self) -> float:
        """Area under the insertion curve; higher is better."""
        return float(np.trapezoid(self.insertion_N, self.fraction_N))


def plot_faithfulness(
    curves: Mapping[str, Curves],
    path: Path,
    *,
    metrics: Mapping[str, float],
    modality: str,
    num_samples: int,
) -> Path:
    """Draw the curves of each method; `random` is drawn dotted.

    Args:
        curves: by method, the mean of all samples.
        path: the PNG to write.
        metrics: the mean areas under the curves, such as ``rollout_deletion_auc``.
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
                getattr(mean, f"{kind}_N"),
                color="#555555" if is_random else COLORS[number % len(COLORS)],
                linestyle=":" if is_random else "-",
                linewidth=1.7,
                label=f"{method.replace('_', ' ')}: {metrics[f'{method}_{kind}_auc']:.3f}",
            )
        style(axes)
        axes.set_xlim(0, 1)
        axes.set_title(f"{kind} (area, {better} is better)", fontsize=10, loc="left")
        verb = "taken away" if kind == "deletion" else "put back"
        axes.set_xlabel(f"share of the {modality} {verb}, most important first", fontsize=9)
        axes.legend(fontsize=8, frameon=False)
    left.set_ylabel(f"model's confidence, mean of {num_samples} samples", fontsize=9)
    return save(figure, path)
