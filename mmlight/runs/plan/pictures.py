"""The picture of a sweep, and that of a robustness report."""

from collections.abc import Sequence
from pathlib import Path

from mmlight.runs.plan.results import Result, best, short_names
from mmlight.runs.plan.robustness_report import Robustness
from mmlight.runs.plan.sweep import Choices, Range, Sweep, as_argument
from mmlight.runs.plots.canvas import BAD, COLORS, FAIR, GOOD, new_figure, save, style
from mmlight.scores import on_axis

_MARKERS = "os^Dv<>PX*"


def plot_sweep(results: Sequence[Result], sweep: Sweep, path: Path) -> Path | None:
    """Draw a panel for each parameter, with a point for each finished combination.

    Returns:
        The path of the PNG, or None where nothing has finished.
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


def plot_robustness(report: Robustness, path: Path) -> Path | None:
    """Draw a curve per corruption, lines for clean data and chance, and a bar per group.

    Nothing is drawn of clean data alone, and an earlier picture goes.
    """
    unit, scale = on_axis(report.metric)
    panels = bool(report.corruptions) + bool(report.groups)
    if not panels:
        path.unlink(missing_ok=True)  # that of an earlier report
        return None
    figure = new_figure(width=7.2 if panels == 1 else 11.6, height=4.4)
    grid = list(figure.subplots(1, panels, squeeze=False, sharey=True).flat)
    if report.corruptions:
        axes = grid.pop(0)
        for number, corruption in enumerate(report.corruptions):
            values = [
                report.at(corruption, severity).scores[report.metric]
                for severity in report.severities
            ]
            axes.plot(
                [0, *report.severities],
                [scale * value for value in (report.clean(), *values)],
                color=COLORS[number % len(COLORS)],
                marker=_MARKERS[number % len(_MARKERS)],
                markersize=5,
                linewidth=1.6,
                label=corruption,
            )
        axes.set_xticks([0, *report.severities], ["clean", *map(str, report.severities)])
        axes.set_xlabel("severity", fontsize=9)
        axes.set_title(f"{report.stage} with spoiled samples", fontsize=11, loc="left")
    if report.groups:
        bars = grid.pop(0)
        known = {None: COLORS[0], True: GOOD, False: FAIR}
        names = [f"{group.name}\n({group.num_samples})" for group in report.groups]
        bars.bar(
            range(len(names)),
            [scale * group.scores[report.metric] for group in report.groups],
            color=[known[group.is_trained] for group in report.groups],
        )
        for is_trained, said in ((True, "in training"), (False, "not in training")):
            if any(group.is_trained is is_trained for group in report.groups):
                bars.bar([0], [0], color=known[is_trained], label=said)
        steep = len(names) > 8 or max(len(group.name) for group in report.groups) > 10
        bars.set_xticks(range(len(names)), names, rotation=60 if steep else 0, fontsize=8)
        bars.set_title(f"clean, by {report.group_field}", fontsize=11, loc="left")
    figure.axes[0].set_ylabel(unit, fontsize=9)
    for axes in figure.axes:
        style(axes)
        axes.axhline(
            scale * report.clean(), color="#555555", linewidth=1, linestyle="--", label="clean"
        )
        if report.chance is not None:
            axes.axhline(
                scale * report.chance, color=BAD, linewidth=1, linestyle=":", label="chance"
            )
        axes.set_ylim(0, 1.25 * axes.get_ylim()[1])  # room for the legend
        axes.legend(fontsize=8, frameon=False, loc="best")
    return save(figure, path)
