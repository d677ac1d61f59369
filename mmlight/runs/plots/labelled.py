"""What a classifier confuses."""

from pathlib import Path
from typing import Any

import numpy as np

from mmlight.runs.plots.canvas import new_figure, save, wrap

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
