"""A sweep at a glance: the metric against each parameter."""

from collections.abc import Sequence
from pathlib import Path

from mmlight.runs.plan.results import Result, best, short_names
from mmlight.runs.plan.sweep import Choices, Range, Sweep, as_argument
from mmlight.runs.plots.canvas import BAD, COLORS, new_figure, save, style
from mmlight.scores import on_axis


def plot_sweep(results: Sequence[Result], sweep: Sweep, path: Path) -> Path | None:
    """Draw a panel for each parameter, with a point for each finished combination.

    Args:
        results: all combinations.
        sweep: the settings.
        path: the PNG to write.

    Returns:
        The path, or None where nothing has finished.
    """
    done = [result for result in results if result.score is not None]
    found = best(done, sweep)
    if found is None:
        return None
    unit, scale = on_axis(sweep.metric)
    keys = sweep.varied
    columns = min(3, len(keys))
    lines = -(-len(keys) // columns)
    figure = new_figure(width=4.2 * columns, height=3.3 * lines)
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes, key, name in zip(grid.flat, keys, short_names(keys), strict=False):
        parameter = sweep.parameters[key]
        texts = [as_argument(v) for v in parameter.values] if isinstance(parameter, Choices) else []
        for result in done:
            value = result.values[key]
            x = texts.index(as_argument(value)) if texts else value
            is_best = result.number == found.number
            axes.scatter(
                x,
                scale * (result.score or 0.0),
                color=BAD if is_best else COLORS[0],
                marker="*" if is_best else "o",
                s=110 if is_best else 26,
                zorder=3 if is_best else 2,
            )
        if isinstance(parameter, Range) and parameter.scale == "log_uniform":
            axes.set_xscale("log")
        if texts:
            axes.set_xticks(range(len(texts)), [text[:18] for text in texts])
            axes.set_xlim(-0.5, len(texts) - 0.5)
        style(axes)
        axes.set_xlabel(name, fontsize=9)
        axes.set_ylabel(unit, fontsize=9)
    for axes in list(grid.flat)[len(keys) :]:
        axes.axis("off")
    figure.suptitle(f"{len(done)} of {len(results)} trials finished; the star is the best")
    return save(figure, path)
