"""All cards as one page of HTML, which opens anywhere and needs no network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mmlight.runs.papers.card import README, Card
from mmlight.runs.papers.figures import BEGIN, Cost, overview, reached, reported, stated
from mmlight.runs.papers.results import Compared, compared, read_results
from mmlight.runs.plots.canvas import BAD, COLORS, FAIR, GOOD, new_figure, save, style
from mmlight.runs.show.grid import Grid
from mmlight.runs.show.page import Figure, figure, render


def page_of(cards: Sequence[Card], *, costs: Mapping[Path, Cost] | None, device: str | None) -> str:
    """Return the page.

    Args:
        cards: the cards, in their order.
        costs: as of `overview`.
        device: that they are for.
    """
    parts = [
        {
            "card": card,
            "reported": reported(card),
            "stated": stated(card),
            "reached": reached(card),
            "about": [one.why for one in read_results(card) if one.why],
            "recipe": _recipe(card),
        }
        for card in cards
    ]
    run = [(card, one) for card in cards for one in compared(card) if one.result is not None]
    with TemporaryDirectory() as folder:
        drawn = [_draw(run, Path(folder) / "reproduced.png")] if run else []
    return render(
        "papers.html",
        title="Papers",
        overviews=_split(overview(cards, costs=costs)),
        device=device,
        num_targets=sum(len(card.targets) for card in cards),
        num_reached=len(run),
        pictures_of=drawn,
        parts=parts,
    )


def _split(grid: Grid) -> dict[str, Grid]:
    """Return what was run, what could be, and the costs, each as wide as a page.

    What is only reported stands with its card.
    """
    names = [column.name for column in grid.columns]
    place = names.index("verdict")
    run = [row for row in grid.rows if row[place] not in ("not run", "reported")]
    absent = [row for row in grid.rows if row[place] == "not run"]
    costly = [row for row in grid.rows if any(cell is not None for cell in row[place + 1 :])]
    return {
        "Run here": _part(grid, run, range(place + 1)),
        "Not run here": _part(grid, absent, range(names.index("here"))),
        "Costs": _part(grid, costly, (0, 1, *range(place + 1, len(names)))),
    }


def _part(grid: Grid, rows: Sequence[tuple[Any, ...]], columns: Sequence[int]) -> Grid:
    return Grid(
        tuple(grid.columns[place] for place in columns),
        tuple(tuple(row[place] for place in columns) for row in rows),
    )


def _recipe(card: Card) -> str:
    """Return what a card's README says before its figures."""
    path = card.folder / README
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return text.partition(BEGIN)[0].strip()


def _draw(run: Sequence[tuple[Card, Compared]], path: Path) -> Figure:
    """Draw what was reported and what came out, a line for each metric."""
    drawn = new_figure(width=8.0, height=1.1 + 0.42 * len(run))
    axes = drawn.subplots()
    for place, (_, one) in enumerate(run):
        assert one.result is not None
        values = [target.value for target in one.targets]
        axes.plot(values, [place] * len(values), "|", color=COLORS[0], markersize=14)
        color = {"missed": BAD, "one run": FAIR}.get(one.verdict, GOOD)
        spread = 2 * (one.result.std or 0.0)
        axes.errorbar([one.result.value], [place], xerr=[spread], fmt="o", color=color, capsize=3)
    axes.set_yticks(range(len(run)))
    axes.set_yticklabels([f"{card.name}, {one.targets[0].metric}" for card, one in run])
    axes.set_ylim(len(run) - 0.5, -0.5)
    axes.set_xlabel("bars: reported; dots: here, with two standard deviations")
    style(axes)
    save(drawn, path)
    return figure(
        path,
        wide=True,
        caption="Green: reached or better; red: missed; yellow: one run, without a deviation",
    )
