"""Scores of one model against those of another, set by set."""

from collections.abc import Mapping
from pathlib import Path

from mmlight.runs.plots.canvas import COLORS, GRID, new_figure, save, style, wrap

Point = tuple[float, float, float]
_MOST = 6
_NAMED = 24


def plot_models(scores: Mapping[str, Mapping[str, Point]], path: Path) -> Path | None:
    """Draw each model's scores over the first one's; above the diagonal it is the better one.

    Args:
        scores: by model, then by set; each a share with the ends of its interval.
        path: the PNG to write.

    Returns:
        The path, or None where no two models have a score in common. At most seven models are
        drawn.
    """
    first, *others = scores
    others = [name for name in others if scores[first].keys() & scores[name].keys()][:_MOST]
    if not others:
        return None
    columns = min(3, len(others))
    rows = -(-len(others) // columns)
    figure = new_figure(width=5.2 * columns, height=4.8 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(others) :]:
        axes.set_visible(False)
    for axes, name in zip(grid, others, strict=False):
        shared = [label for label in scores[first] if label in scores[name]]
        ends = []
        for label in shared:
            across, up = ([100 * v for v in scores[model][label]] for model in (first, name))
            better = up[0] > across[0]
            axes.errorbar(
                across[0],
                up[0],
                xerr=[[max(0, across[0] - across[1])], [max(0, across[2] - across[0])]],
                yerr=[[max(0, up[0] - up[1])], [max(0, up[2] - up[0])]],
                fmt="o",
                color=COLORS[2] if better else COLORS[1],
                ecolor=GRID,
                markersize=5,
            )
            if len(shared) <= _NAMED:
                axes.annotate(
                    wrap(label, width=28, lines=1),
                    (across[0], up[0]),
                    xytext=(5, 4),
                    textcoords="offset points",
                    fontsize=8,
                )
            ends += [across[0], up[0]]
        room = 0.08 * (max(ends) - min(ends)) or 1.0
        limits = (min(ends) - room, max(ends) + 2 * room)
        axes.plot(limits, limits, color="#777777", linewidth=1, zorder=0)
        axes.set_xlim(limits)
        axes.set_ylim(limits)
        axes.set_xlabel(f"{wrap(first, width=44, lines=1)} (%)", fontsize=9)
        axes.set_ylabel(f"{wrap(name, width=44, lines=1)} (%)", fontsize=9)
        style(axes)
    return save(figure, path)
