"""A scaling law over the runs it was fitted to."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmlight.runs.plan.scaling import ScalingFit
from mmlight.runs.plots.canvas import BAD, COLORS, new_figure, save, style


@dataclass(frozen=True)
class ScalingSeries:
    """Runs that share one law.

    Attributes:
        name: for the legend.
        x: of each run.
        y: of each run, lower is better.
        fit: their law; None draws the points alone.
        tried: a later run, as x and y, which the law did not see.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    fit: ScalingFit | None = None
    tried: tuple[float, float] | None = None


@dataclass(frozen=True)
class ScalingPanel:
    """One pair of axes.

    Attributes:
        title: what was measured.
        y_label: with its unit.
        series: what it shows.
    """

    title: str
    y_label: str
    series: Sequence[ScalingSeries]


def plot_scaling(panels: Sequence[ScalingPanel], path: Path, *, x_label: str) -> Path:
    """Draw runs, their laws and the laws' bands of 95 %, both axes as logarithms.

    Args:
        panels: side by side.
        path: the PNG to write.
        x_label: with its unit.
    """
    figure = new_figure(width=5.2 * len(panels), height=4.2)
    grid = figure.subplots(1, len(panels), squeeze=False)
    for axes, panel in zip(grid[0], panels, strict=True):
        for color, series in zip(COLORS, panel.series, strict=False):
            _draw(axes, series, color)
        axes.set_xscale("log")
        axes.set_yscale("log")
        _plain_ticks(axes, [y for series in panel.series for y in series.y])
        style(axes)
        axes.set_xlabel(x_label, fontsize=9)
        axes.set_ylabel(panel.y_label, fontsize=9)
        axes.set_title(panel.title, fontsize=11, loc="left")
        axes.legend(fontsize=8, frameon=False)
    return save(figure, path)


def _draw(axes: Any, series: ScalingSeries, color: str) -> None:
    axes.scatter(series.x, series.y, color=color, s=18, zorder=3, label=series.name)
    ends = [*series.x, *([series.tried[0]] if series.tried else [])]
    if series.fit is not None:
        x = np.geomspace(min(ends) / 1.3, max(ends) * 1.3, 100)
        low, high = series.fit.band(x)
        axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
        axes.plot(x, series.fit.law.at(x), color=color, linewidth=1.4, label=str(series.fit.law))
    if series.tried is not None and series.fit is not None:
        x_tried, y_tried = series.tried
        said = series.fit.predict(x_tried)
        axes.errorbar(
            x_tried,
            said.y,
            yerr=[[said.y - said.low], [said.high - said.y]],
            color=color,
            capsize=4,
            linewidth=1.4,
            zorder=3,
            label="predicted (95 %)",
        )
        axes.scatter(x_tried, y_tried, color=BAD, marker="*", s=120, zorder=4, label="reached")


def _plain_ticks(axes: Any, values: Sequence[float]) -> None:
    """Name round numbers on an axis that is less than a decade long."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    low, high = min(values), max(values)
    ticks = [
        factor * 10.0**power
        for power in range(-6, 7)
        for factor in (1, 1.5, 2, 3, 4, 5, 7)
        if low * 0.8 <= factor * 10.0**power <= high * 1.25
    ]
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
