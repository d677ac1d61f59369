"""Whether a classifier's probabilities are true: accuracy against confidence."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmlight.runs.plots.canvas import BAD, COLORS, new_figure, save, style


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
