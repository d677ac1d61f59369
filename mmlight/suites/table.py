"""Results as one table, in files, and as a page with a picture of model against model."""

from collections.abc import Sequence
from pathlib import Path

from mmlight.files import write_text
from mmlight.metrics.bootstrap import Score
from mmlight.runs.plots.models import plot_models
from mmlight.runs.show.grid import Column, Grid
from mmlight.runs.show.page import figure, render
from mmlight.scores import format_value, is_share
from mmlight.suites.results import Result


def scores_grid(results: Sequence[Result]) -> Grid:
    """Return a row for each score of a set, and a column for each model, with intervals of 95 %."""
    models = list(dict.fromkeys(r.model for r in results))
    found = {
        (r.set, r.task, name, r.model): score for r in results for name, score in r.scores.items()
    }
    lines = list(dict.fromkeys(key[:3] for key in found))
    order = list(dict.fromkeys(r.set for r in results))
    lines.sort(key=lambda line: order.index(line[0]))
    size = {(r.set, r.task): r.num_samples for r in results}
    rows = []
    for line in lines:
        cells = [found.get((*line, model)) for model in models]
        texts = [None if cell is None else score_text(line[2], cell) for cell in cells]
        rows.append((*line, f"{size[line[:2]]:,}", *texts))
    left = (Column("set", wraps=True), Column("task"), Column("score"))
    right = (Column("samples", align="right"), *(Column(m, align="right") for m in models))
    return Grid((*left, *right), tuple(rows), repeat=3)


def scores_digits(results: Sequence[Result]) -> Grid:
    """Return a row for each score, every number with all of its digits."""
    return Grid.of_records(
        [
            {
                "model": r.model,
                "set": r.set,
                "task": r.task,
                "score": name,
                "value": score.value,
                "low": score.low,
                "high": score.high,
                "sd": score.sd,
                "samples": r.num_samples,
                "unreadable": r.num_bad,
                **{key: value for key, value in r.details.items()},
            }
            for r in results
            for name, score in r.scores.items()
        ]
    )


def score_text(name: str, score: Score) -> str:
    """Return a score with its interval, and its spread where there is one, as people read it."""
    whole, low, high = (format_value(name, v) for v in (score.value, score.low, score.high))
    ends = f"{low.removesuffix(' %')}-{high.removesuffix(' %')}"
    spread = ""
    if score.sd is not None:
        spread = f" ± {100 * score.sd:.1f}" if is_share(name) else f" ± {score.sd:.2g}"
    return f"{whole} ({ends}){spread}"


def write_results(results: Sequence[Result], *, name: str, folder: Path) -> Path:
    """Write ``scores.csv``, ``scores.md``, a picture and a page; return the page.

    Args:
        results: of all models.
        name: of the suite.
        folder: where to.
    """
    grid = scores_grid(results)
    write_text(folder / "scores.csv", scores_digits(results).csv())
    write_text(folder / "scores.md", grid.markdown())
    models = list(dict.fromkeys(r.model for r in results))
    first = {
        (r.model, f"{r.set} {r.task}"): next(iter(r.scores.items())) for r in results if r.scores
    }
    points = {
        model: {
            label: (score.value, score.low, score.high)
            for (owner, label), (metric, score) in first.items()
            if owner == model and is_share(metric)
        }
        for model in models
    }
    drawn = plot_models(points, folder / "models.png")
    figures = []
    if drawn is not None:
        said = "a point for each set and task: its first score, with intervals of 95 %"
        figures = [figure(drawn, wide=True, caption=said)]
    page = folder / "scores.html"
    title = f"{name}: {len(models)} {'model' if len(models) == 1 else 'models'}"
    write_text(page, render("scores.html", title=title, grid=grid, figures=figures))
    return page
