"""A classifier against the labels: what it mistakes for what, and how sure it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmlight.runs.plots.canvas import BAD, COLORS, new_figure, save, style, wrap

_MOST_NUMBERS = 20  # classes up to which counts are written into the cells
_MOST_NAMES = 40


def plot_confusion(counts_KK: np.ndarray, path: Path, *, class_names: list[str]) -> Path:
    """Draw a confusion matrix; colours are shares of each true class, numbers are counts.

    Args:
        counts_KK: rows are labels, columns predictions.
        path: the PNG to write.
        class_names: K names, or none.
    """
    size = len(counts_KK)
    total_K1 = counts_KK.sum(1, keepdims=True)
    share_KK = counts_KK / np.maximum(total_K1, 1)
    side = min(10.0, 2.6 + 0.42 * size)
    figure = new_figure(width=side + 1.4, height=side + 0.3)
    axes: Any = figure.subplots()
    picture = axes.imshow(share_KK, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(picture, ax=axes, label="share of the true class", shrink=0.7)
    names = class_names or [str(k) for k in range(size)]
    shown = range(0, size, -(-size // _MOST_NAMES))
    labels = [wrap(names[k], width=18, lines=1) for k in shown]
    axes.set_xticks(shown, labels, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(shown, labels, fontsize=8)
    if size <= _MOST_NUMBERS:
        for row, column in np.argwhere(counts_KK > 0).tolist():
            axes.text(
                column,
                row,
                str(counts_KK[row, column]),
                ha="center",
                va="center",
                fontsize=8,
                color="white" if share_KK[row, column] > 0.55 else "black",
            )
    right = np.trace(counts_KK) / max(counts_KK.sum(), 1)
    axes.set_xlabel("predicted", fontsize=9)
    axes.set_ylabel("true", fontsize=9)
    axes.set_title(
        f"{counts_KK.sum()} samples, {100 * right:.1f} % on the diagonal", fontsize=10, loc="left"
    )
    return save(figure, path)


@dataclass(frozen=True)
class ReliabilityPanel:
    """One reliability diagram (arXiv 1706.04599, figure 1).

    Attributes:
        count_M: samples in each of M bins of equal width over [0, 1].
        confidence_M: mean confidence of each; NaN in an empty one.
        accuracy_M: share of right answers of each; NaN in an empty one.
        calibration_error: the expected calibration error.
        title: what was evaluated.
    """

    count_M: np.ndarray
    confidence_M: np.ndarray
    accuracy_M: np.ndarray
    calibration_error: float
    title: str = "Calibration"


def plot_reliability(panels: Sequence[ReliabilityPanel], path: Path) -> Path:
    """Draw accuracy against confidence by bins, and how many samples each bin has.

    Args:
        panels: one or more, drawn side by side.
        path: the PNG to write.
    """
    columns = len(panels)
    figure = new_figure(width=5.2 if columns == 1 else 3.9 * columns, height=5.2)
    grid = figure.subplots(
        2, columns, sharex=True, sharey="row", height_ratios=(3, 1), squeeze=False
    )
    for column, panel in enumerate(panels):
        _draw(grid[0, column], grid[1, column], panel)
        if column == 0:
            grid[0, 0].set_ylabel("accuracy", fontsize=9)
            grid[1, 0].set_ylabel("samples", fontsize=9)
            grid[0, 0].legend(fontsize=8, frameon=False, loc="upper left")
    return save(figure, path)


def _draw(upper: Any, lower: Any, panel: ReliabilityPanel) -> None:
    edges = np.linspace(0, 1, len(panel.count_M) + 1)
    width = edges[1]
    upper.bar(edges[:-1], np.nan_to_num(panel.accuracy_M), width, align="edge", color=COLORS[4])
    known = panel.count_M > 0
    low = np.minimum(panel.accuracy_M, panel.confidence_M)[known]
    gap = np.abs(panel.accuracy_M - panel.confidence_M)[known]
    upper.bar(
        edges[:-1][known], gap, width, bottom=low, align="edge", color=BAD, alpha=0.35, label="gap"
    )
    upper.plot([0, 1], [0, 1], color="#555555", linestyle=":", label="perfectly calibrated")
    upper.set(xlim=(0, 1), ylim=(0, 1))
    upper.set_title(
        f"{panel.title}: expected error {100 * panel.calibration_error:.1f} %",
        fontsize=10,
        loc="left",
    )
    lower.bar(edges[:-1], panel.count_M, width, align="edge", color="#888888")
    lower.set_xlabel("confidence (highest probability)", fontsize=9)
    for axes in (upper, lower):
        style(axes)
