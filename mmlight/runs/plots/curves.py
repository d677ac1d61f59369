"""Curves of losses and scores over the steps of a run."""

from pathlib import Path
from typing import Any

import numpy as np

from mmlight.runs.plots.canvas import COLORS, new_figure, save, style
from mmlight.runs.run.summary import SAMPLES_PER_S
from mmlight.scores import is_loss


def plot_curves(rows: list[dict[str, Any]], path: Path) -> Path | None:
    """Draw loss, scores, recall at 1 per pair, zero-shot accuracy and speed, as far as logged.

    Args:
        rows: as `mmlight.runs.run.metrics_log.read_rows` gives them.
        path: the PNG to write.

    Returns:
        The path, or None where nothing was logged that could be drawn.
    """
    from matplotlib.ticker import MaxNLocator

    names = list(dict.fromkeys(name for row in rows for name in row))
    recall = [n for n in names if n.startswith("val/") and n.endswith("/recall_at_1")]
    panels = [
        ("loss", [n for n in names if n in ("train/loss", "val/loss")], ""),
        ("scores (val)", _shares(rows, names), "%"),
        ("recall@1 (val)", recall, "%"),
        (
            "zero-shot accuracy (val)",
            [n for n in names if n.startswith("val/zero_shot/") and n.endswith("accuracy_at_1")],
            "%",
        ),
        ("training speed", [n for n in names if n == SAMPLES_PER_S], "samples/s"),
    ]
    panels = [panel for panel in panels if panel[1]]
    if not panels:
        return None
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure = new_figure(width=5.4 * columns, height=3.4 * lines)
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes, (title, series, unit) in zip(grid.flat, panels, strict=False):
        for number, name in enumerate(series):
            _draw(axes, rows, name, color=COLORS[number % len(COLORS)], percent=unit == "%")
        if series is recall:
            _draw_chance(axes, rows)
        style(axes)
        axes.set_title(title, fontsize=11, loc="left")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.set_xlabel("optimiser steps", fontsize=9)
        axes.set_ylabel(unit, fontsize=9)
        if unit:
            axes.set_ylim(bottom=0)
        if len(series) > 1 or series[0] != SAMPLES_PER_S:
            axes.legend(fontsize=8, frameon=False)
    for axes in list(grid.flat)[len(panels) :]:
        axes.axis("off")
    return save(figure, path)


def _shares(rows: list[dict[str, Any]], names: list[str]) -> list[str]:
    """The scores of the whole validation set that lie between 0 and 1: accuracy, F1, error rate."""
    shares = []
    for name in names:
        stage, _, rest = name.partition("/")
        if stage != "val" or "/" in rest or is_loss(name):
            continue
        values = np.array([float(row[name]) for row in rows if name in row])
        if (
            np.isfinite(values).any()
            and (np.nan_to_num(values).clip(0, 1) == np.nan_to_num(values)).all()
        ):
            shares.append(name)
    return shares[: len(COLORS)]


def _draw_chance(axes: Any, rows: list[dict[str, Any]]) -> None:
    levels = [
        float(value)
        for row in rows
        for name, value in row.items()
        if name.startswith("val/") and name.endswith("/chance_recall_at_1")
    ]
    if levels:
        level = 100 * float(np.mean(levels))
        axes.axhline(level, color="#777777", linestyle=":", linewidth=1, label="chance")


def _draw(axes: Any, rows: list[dict[str, Any]], name: str, *, color: str, percent: bool) -> None:
    found = [(row["step"], float(row[name])) for row in rows if name in row]
    steps = np.array([step for step, _ in found])
    values = np.array([value for _, value in found]) * (100 if percent else 1)
    parts = name.split("/")
    label = name
    if len(parts) == 3:
        label = parts[2] if parts[1] == "zero_shot" else parts[1]
        label = label.replace("_to_", " → ").replace("_accuracy_at_1", "")
    if len(parts) == 2 and percent:
        label = parts[1].replace("_", " ")
    if name == "train/loss" and len(values) > 40:
        axes.plot(steps, values, color=color, linewidth=0.6, alpha=0.35)
        values, label = smooth(values), f"{label} (smoothed)"
    marker = "o" if len(values) <= 30 else ""
    axes.plot(steps, values, color=color, linewidth=1.5, marker=marker, markersize=3, label=label)


def smooth(values: np.ndarray) -> np.ndarray:
    """Return the running mean over about a thirtieth of the curve, NaN left out.

    Args:
        values: (N,) numbers.
    """
    width = max(3, len(values) // 30)
    kernel = np.ones(width)
    known = np.isfinite(values)
    total = np.convolve(np.where(known, values, 0.0), kernel, mode="same")
    count = np.convolve(known.astype(float), kernel, mode="same")
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
