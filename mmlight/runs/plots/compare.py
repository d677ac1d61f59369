"""Settings side by side: curves, bars, and parallel coordinates for sweeps."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmlight.runs.plots.canvas import COLORS, new_figure, save, style
from mmlight.runs.plots.curves import smooth
from mmlight.runs.show.compare.curves import Curve, pictured
from mmlight.runs.show.compare.settings import Setting, as_text, better, ordered
from mmlight.scores import Direction, on_axis

_AXES = {"steps": "optimiser steps", "samples": "training samples", "hours": "hours"}
_LABEL = 40
_MANY_POINTS = 40
# An axis whose values lie further apart is drawn with a logarithm.
_WIDE = 9
_LARGEST = sys.float_info.max


def plot_curves_of(settings: Sequence[Setting], metric: str, path: Path) -> Path | None:
    """Draw a metric over steps, samples and hours, a line for each setting.

    Args:
        settings: what is compared.
        metric: its name.
        path: the PNG to write.

    Returns:
        The path, or None where there is no curve of two points.
    """
    from matplotlib.ticker import MaxNLocator

    curves = {n: c for n, c in pictured(settings, metric).items() if len(c.steps) > 1}
    if not curves:
        return None
    colors, scale = colors_of(settings, metric), on_axis(metric)[1]
    figure = new_figure(width=13.5, height=4.4)
    grid = figure.subplots(1, 3, sharey=True)
    for axes, (axis, name) in zip(grid, _AXES.items(), strict=True):
        for setting in settings:
            if setting.number in curves:
                curve = curves[setting.number]
                _draw(axes, getattr(curve, axis), curve, colors[setting.number], setting, scale)
        style(axes)
        axes.set_xlabel(name, fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=axis != "hours"))
        axes.ticklabel_format(axis="x", style="sci", scilimits=(-3, 5))
    grid[0].set_ylabel(on_axis(metric)[0], fontsize=9)
    handles, labels = grid[0].get_legend_handles_labels()
    if len(labels) <= len(COLORS):
        columns = 1 if max(map(len, labels)) > _LABEL else min(3, len(labels))
        figure.legend(
            handles, labels, loc="outside lower left", ncols=columns, fontsize=8, frameon=False
        )
    return save(figure, path)


def plot_bars(settings: Sequence[Setting], metric: str, path: Path) -> Path | None:
    """Draw the final mean of each setting with its standard deviation, and each run as a point.

    Args:
        settings: what is compared.
        metric: its name.
        path: the PNG to write.

    Returns:
        The path, or None where no run has the metric.
    """
    spreads = {s.number: s.spread(lambda run: run.final(metric)) for s in settings}
    shown = [s for s in ordered(settings, metric) if spreads[s.number].values][::-1]
    if not shown:
        return None
    colors, scale = colors_of(settings, metric), on_axis(metric)[1]
    figure = new_figure(width=9, height=1.4 + 0.34 * len(shown))
    axes = figure.subplots()
    values = [scale * v for s in shown for v in spreads[s.number].values]
    low, high = min(values), max(values)
    room = (high - low) or abs(high) or 1.0
    # From 0 where that does not hide the differences.
    start = 0.0 if low >= 0 and low < 4 * room else low - room
    for place, setting in enumerate(shown):
        found = spreads[setting.number]
        assert found.mean is not None
        average, color = scale * found.mean, colors[setting.number]
        axes.barh(place, average - start, left=start, color=color, alpha=0.55, height=0.66)
        if found.sd is not None:
            axes.errorbar(
                average, place, xerr=scale * found.sd, color="#222222", capsize=3, linewidth=1.2
            )
        points = [scale * value for value in found.values]
        axes.scatter(
            points, [place] * len(points), s=24, color=color, edgecolor="#222222", lw=0.6, zorder=3
        )
    axes.set_yticks(range(len(shown)), [_label(s) for s in shown], fontsize=9)
    axes.set_xlim(left=start if start else None)
    style(axes)
    axes.grid(axis="y", visible=False)
    larger = "larger" if better(settings, metric) == "max" else "smaller"
    axes.set_xlabel(f"{on_axis(metric)[0]}, at the end ({larger} is better)", fontsize=9)
    return save(figure, path)


def plot_parallel(settings: Sequence[Setting], metric: str, path: Path) -> Path | None:
    """Draw an axis for each value that differs, and one for the metric; a line is a setting.

    Args:
        settings: what is compared.
        metric: its name.
        path: the PNG to write.

    Returns:
        The path, or None where settings do not differ in two values or less than three are known.
    """
    scores = {s.number: s.spread(lambda run: run.final(metric)).mean for s in settings}
    shown = [s for s in settings if scores[s.number] is not None]
    names = [n for n in settings[0].differs if len({s.text(n) for s in shown}) > 1]
    if len(names) < 2 or len(shown) < 3:
        return None
    columns = [_Column([_plotted(s, name) for s in shown]) for name in names]
    scale = on_axis(metric)[1]
    columns.append(_Column([scale * (scores[s.number] or 0.0) for s in shown], is_score=True))
    ranks = _ranks([scores[s.number] or 0.0 for s in shown], better(settings, metric))
    figure = new_figure(width=1.2 + 2.1 * len(columns), height=4.6)
    axes = figure.subplots()
    places = list(range(len(columns)))
    for number in sorted(range(len(shown)), key=lambda n: ranks[n]):
        heights = [column.heights[number] for column in columns]
        axes.plot(places, heights, color=_viridis(ranks[number]), linewidth=1.6, alpha=0.85)
    for place, column in zip(places, columns, strict=True):
        axes.axvline(place, color="#444444", linewidth=0.8)
        for height, text in column.ticks:
            axes.annotate(
                text.replace("$", r"\$"),
                (place, height),
                xytext=(4, 0),
                textcoords="offset points",
                fontsize=8,
                va="center",
                bbox={"boxstyle": "round,pad=0.1", "facecolor": "white", "alpha": 0.8, "lw": 0},
            )
    axes.set_xticks(places, [*names, on_axis(metric)[0]], fontsize=9)
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(columns) - 0.5)
    axes.set_ylim(-0.06, 1.06)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_title("a line is a setting; yellow is best", fontsize=9, loc="left")
    return save(figure, path)


def colors_of(settings: Sequence[Setting], metric: str) -> dict[int, Any]:
    """Return a colour for each setting; of many, one that tells its rank by the metric.

    Args:
        settings: what is compared.
        metric: its name.
    """
    if len(settings) <= len(COLORS):
        return {s.number: COLORS[place] for place, s in enumerate(settings)}
    places = {s.number: place for place, s in enumerate(ordered(settings, metric))}
    return {number: _viridis(1 - place / (len(places) - 1)) for number, place in places.items()}


class _Column:
    """An axis of parallel coordinates: where values lie between 0 and 1, and what is written."""

    def __init__(self, values: Sequence[Any], *, is_score: bool = False) -> None:
        numbers = [float(v) for v in values if isinstance(v, int | float) and abs(v) <= _LARGEST]
        if len(numbers) < len(values) or any(isinstance(v, bool) for v in values):
            texts = sorted({as_text(v) for v in values})
            self.heights = [texts.index(as_text(v)) / max(1, len(texts) - 1) for v in values]
            self.ticks = [(n / max(1, len(texts) - 1), text) for n, text in enumerate(texts)]
            return
        low, high = min(numbers), max(numbers)
        logs = not is_score and low > 0 and high / low > _WIDE
        first, last = (math.log(low), math.log(high)) if logs else (low, high)

        def height(number: float) -> float:
            return ((math.log(number) if logs else number) - first) / ((last - first) or 1.0)

        self.heights = [height(number) for number in numbers]
        different = sorted(set(numbers))
        if len(different) > (2 if is_score else 6):
            different = (np.geomspace if logs else np.linspace)(low, high, 5).tolist()
        self.ticks = [(height(tick), f"{tick:.3g}") for tick in different]


def _draw(
    axes: Any, xs: Sequence[float], curve: Curve, color: Any, setting: Setting, scale: float
) -> None:
    def shown(values: Sequence[float]) -> np.ndarray:
        scaled = scale * np.array(values)
        return smooth(scaled) if len(scaled) > _MANY_POINTS else scaled

    means = shown(curve.means)
    marker = "o" if len(means) <= _MANY_POINTS // 2 else ""
    axes.plot(
        xs, means, color=color, linewidth=1.6, marker=marker, markersize=3, label=_label(setting)
    )
    if curve.deviations is not None:
        spread = shown(curve.deviations)
        axes.fill_between(xs, means - spread, means + spread, color=color, alpha=0.15, linewidth=0)


def _ranks(scores: Sequence[float], way: Direction) -> list[float]:
    """Return 0 for the worst to 1 for the best."""
    low, high = min(scores), max(scores)
    shares = [(score - low) / ((high - low) or 1.0) for score in scores]
    return shares if way == "max" else [1 - share for share in shares]


def _label(setting: Setting) -> str:
    name = setting.label.replace("$", r"\$")
    return f"{setting.number}  {name if len(name) <= 70 else name[:67] + '...'}"


def _viridis(share: float) -> Any:
    from matplotlib import colormaps

    return colormaps["viridis"](0.05 + 0.9 * share)


def _plotted(setting: Setting, name: str) -> Any:
    """Return a number as it is, other values as they are told apart in the table."""
    value = setting.differs[name]
    return setting.text(name) if isinstance(value, str | list | dict) else value
