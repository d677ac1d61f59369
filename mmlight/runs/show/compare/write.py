"""Writes a comparison: tables, pictures, and one page with all of them."""

from collections.abc import Sequence
from pathlib import Path

from mmlight.files import write_text
from mmlight.runs.plots.compare import plot_bars, plot_curves_of, plot_parallel
from mmlight.runs.show.compare.grids import (
    runs_digits,
    runs_grid,
    settings_digits,
    settings_grid,
)
from mmlight.runs.show.compare.settings import Setting, as_text
from mmlight.runs.show.page import Figure, figure, render

_CURVES = "means over seeds; the bands are one standard deviation to each side"
_BARS = "the value at the end: mean, standard deviation, and each run"
_PARALLEL = "parallel coordinates: an axis for each value that differs"


def write_comparison(settings: Sequence[Setting], metrics: Sequence[str], folder: Path) -> Path:
    """Write ``settings.csv``, ``settings.md``, ``runs.csv``, pictures and a page; return that."""
    grid = settings_grid(settings, metrics)
    write_text(folder / "settings.csv", settings_digits(settings, metrics).csv())
    write_text(folder / "settings.md", grid.markdown())
    write_text(folder / "runs.csv", runs_digits(settings, metrics).csv())
    runs = [run for setting in settings for run in setting.runs]
    page = folder / "compare.html"
    shown = render(
        "compare.html",
        title=f"{len(runs)} runs compared",
        num_runs=len(runs),
        num_settings=len(settings),
        names=list(settings[0].differs),
        settings=grid,
        unfinished=[f"{run.label} ({run.state})" for run in runs if not run.is_finished],
        some_finished=any(run.is_finished for run in runs),
        figures={metric: _figures(settings, metric, folder) for metric in metrics},
        runs=runs_grid(settings, metrics),
        shared=_shared(settings),
    )
    write_text(page, shown)
    return page


def _figures(settings: Sequence[Setting], metric: str, folder: Path) -> list[Figure]:
    stem = metric.replace("/", "_")
    drawn = [
        (plot_curves_of(settings, metric, folder / f"{stem}_curves.png"), _CURVES, True),
        (plot_bars(settings, metric, folder / f"{stem}_bars.png"), _BARS, False),
        (plot_parallel(settings, metric, folder / f"{stem}_parallel.png"), _PARALLEL, True),
    ]
    return [figure(path, wide=wide, caption=name) for path, name, wide in drawn if path is not None]


def _shared(settings: Sequence[Setting]) -> str:
    """Return the settings that all runs share."""
    first, *others = [run.settings for setting in settings for run in setting.runs]
    shared = {k: v for k, v in first.items() if all(k in o and o[k] == v for o in others)}
    return "\n".join(f"{key}: {as_text(value)}" for key, value in shared.items())
