"""All cards as one page of HTML, which opens anywhere and needs no network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from mmlight.runs.papers.card import README, Card
from mmlight.runs.papers.figures import BEGIN, Cost, overview, reached, reported, stated
from mmlight.runs.papers.results import Compared, compared, read_results
from mmlight.runs.plots.canvas import BAD, COLORS, GOOD, new_figure, save, style
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
        overview=overview(cards, costs=costs),
        device=device,
        num_targets=sum(len(card.targets) for card in cards),
        num_reached=len(run),
        pictures_of=drawn,
        parts=parts,
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
        color = BAD if one.verdict == "missed" else GOOD
        spread = 2 * (one.result.std or 0.0)
        axes.errorbar([one.result.value], [place], xerr=[spread], fmt="o", color=color, capsize=3)
    axes.set_yticks(range(len(run)))
    axes.set_yticklabels([f"{card.name}, {one.targets[0].metric}" for card, one in run])
    axes.invert_yaxis()
    axes.set_xlabel("bars: reported; dots: here, with two standard deviations")
    style(axes)
    save(drawn, path)
    return figure(path, wide=True, caption="Reported and reproduced")
