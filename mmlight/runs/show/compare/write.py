"""Writes a comparison: tables, pictures, and one page with all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmlight.files import write_text
from mmlight.runs.plots.compare import plot_bars, plot_curves_of, plot_parallel
from mmlight.runs.show.compare.settings import Setting, as_text
from mmlight.runs.show.compare.table import (
    Grid,
    csv_table,
    markdown,
    runs_csv,
    runs_grid,
    settings_grid,
)
from mmlight.runs.show.page import figure, text, whole_page


@dataclass(frozen=True)
class Comparison:
    """Where a comparison was written.

    Attributes:
        page: everything on one page.
        folder: the page, ``settings.csv``, ``settings.md``, ``runs.csv`` and the pictures.
    """

    page: Path
    folder: Path


def write_comparison(
    settings: Sequence[Setting], metrics: Sequence[str], folder: Path
) -> Comparison:
    """Write tables, pictures and the page.

    Args:
        settings: what is compared, in the order of the tables' lines.
        metrics: by which.
        folder: where; it is made.
    """
    grid = settings_grid(settings, metrics)
    write_text(folder / "settings.csv", csv_table(settings, metrics))
    write_text(folder / "settings.md", markdown(grid))
    write_text(folder / "runs.csv", runs_csv(settings, metrics))
    figures = []
    for metric in metrics:
        stem = metric.replace("/", "_")
        figures.append(f"<h2>{text(metric)}</h2>")
        drawn = [
            (plot_curves_of(settings, metric, folder / f"{stem}_curves.png"), _CURVES, True),
            (plot_bars(settings, metric, folder / f"{stem}_bars.png"), _BARS, False),
            (plot_parallel(settings, metric, folder / f"{stem}_parallel.png"), _PARALLEL, True),
        ]
        shown = "".join(figure(p, wide=w, name=name) for p, name, w in drawn if p is not None)
        figures.append(f'<div class="pictures">{shown}</div>')
    total = sum(len(s.runs) for s in settings)
    parts = [
        f"<h1>{total} runs, {len(settings)} settings</h1>",
        f'<p class="soft">{text(_explained(settings))}</p>',
        _table(grid),
        _unfinished(settings),
        *figures,
        "<h2>Runs</h2>",
        _table(runs_grid(settings, metrics)),
        _everything_equal(settings),
    ]
    page = folder / "compare.html"
    write_text(page, whole_page(f"{total} runs compared", parts))
    return Comparison(page, folder)


_CURVES = "means over seeds; the bands are one standard deviation to each side"
_BARS = "the value at the end: mean, standard deviation, and each run"
_PARALLEL = "parallel coordinates: an axis for each value that differs"


def _explained(settings: Sequence[Setting]) -> str:
    names = ", ".join(settings[0].differs)
    said = f"Settings differ in {names}." if names else "Nothing differs but seeds."
    return (
        f"{said} Runs that differ only in seed are one setting: mean ± standard deviation over "
        "its finished runs. Best: over each run's validations, then the mean."
    )


def _unfinished(settings: Sequence[Setting]) -> str:
    some = [run for s in settings for run in s.runs if not run.is_finished]
    if not some:
        return ""
    told = ", ".join(f"{run.label} ({run.state})" for run in some[:12])
    more = f" and {len(some) - 12} more" if len(some) > 12 else ""
    counted = any(run.is_finished for s in settings for run in s.runs)
    where = "not in the means of settings that have finished runs" if counted else "as they stand"
    return f'<p class="failed">Not finished, {where}: {text(told)}{more}.</p>'


def _everything_equal(settings: Sequence[Setting]) -> str:
    """Return the configuration that all share."""
    configs = [run.settings for setting in settings for run in setting.runs]
    first = configs[0]
    shared = {
        key: value
        for key, value in first.items()
        if all(key in other and other[key] == value for other in configs)
    }
    lines = "\n".join(f"{key}: {as_text(value)}" for key, value in shared.items())
    return f"<details><summary>What all share</summary><pre>{text(lines)}</pre></details>"


def _table(grid: Grid) -> str:
    def cells(row: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{'' if number else ' class=left'}>{text(cell)}</{tag}>"
            for cell, number in zip(row, grid.is_number, strict=True)
        )

    head = f"<tr>{cells(grid.headings, 'th')}</tr>"
    rows = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in grid.rows)
    return f'<div class="scroll"><table>{head}{rows}</table></div>'
