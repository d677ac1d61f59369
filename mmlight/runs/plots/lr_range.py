"""The curve of a learning-rate range test."""

from pathlib import Path

import numpy as np

from mmlight.optim.lr_range import LrSuggestion
from mmlight.runs.plots.canvas import BAD, COLORS, GOOD, new_figure, save, style


def plot_lr_range(
    lrs: list[float], losses: list[float], found: LrSuggestion | None, path: Path
) -> Path:
    """Draw the loss over the learning rate, and the suggestion.

    Args:
        lrs: rate of each step.
        losses: loss of each step.
        found: what was read off the curve.
        path: the PNG to write.
    """
    figure = new_figure(width=6.4, height=4.0)
    axes = figure.subplots()
    values = np.array(losses, dtype=float)
    axes.plot(lrs, values, color=COLORS[0], linewidth=0.8, alpha=0.4, label="loss of the batch")
    if found is not None:
        smoothed = found.smoothed_N
        axes.plot(lrs[: len(smoothed)], smoothed, color=COLORS[0], linewidth=1.8, label="smoothed")
        axes.axvline(found.lr, color=GOOD, linewidth=1.4, label=f"falls fastest: {found.lr:.1e}")
        axes.axvline(
            found.lowest, color=BAD, linewidth=1, linestyle=":", label=f"lowest: {found.lowest:.1e}"
        )
        # What comes after divergence would flatten all that matters.
        low, high = smoothed.min(), max(smoothed[: np.argmin(smoothed) + 1].max(), values[0])
        axes.set_ylim(low - 0.15 * (high - low), high + 0.35 * (high - low))
    axes.set_xscale("log")
    style(axes)
    axes.set_xlabel("learning rate (optimizer.lr)", fontsize=9)
    axes.set_ylabel("training loss", fontsize=9)
    axes.set_title("learning-rate range test", fontsize=11, loc="left")
    axes.legend(fontsize=8, frameon=False)
    return save(figure, path)
