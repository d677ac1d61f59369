"""The figures of cards as tables: for the terminal, and for the README of each card."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmlight.errors import UserError
from mmlight.files import write_text
from mmlight.runs.papers.card import README, Card, Compute, Target
from mmlight.runs.papers.results import Compared, Result, compared, read_results
from mmlight.runs.show.grid import Column, Grid

BEGIN, END = (
    "<!-- figures: written by mmlight papers readme -->",
    "<!-- end of figures -->",
)
STYLES = {"reproduced": "green", "better": "green", "missed": "red", "one run": "yellow"}


@dataclass(frozen=True)
class Cost:
    """What an experiment is foretold to cost.

    Attributes:
        devices: how many.
        device_hours: of one run; None where the number of samples is not known.
        kwh: of the devices.
        gib: of memory for each device.
        note: what could not be foretold.
    """

    devices: int | None
    device_hours: float | None
    kwh: float | None
    gib: float | None
    note: str = ""


def overview(
    cards: Sequence[Card],
    *,
    costs: Mapping[Path, Cost] | None = None,
    file: str | None = None,
) -> Grid:
    """Return a row for each figure that was reported or reached.

    Args:
        cards: the cards.
        costs: foretold, by the experiment's path; None leaves these columns out.
        file: only those of this experiment.
    """
    columns = [
        *(Column("card"), Column("experiment", wraps=True), Column("on", wraps=True)),
        *(Column("metric"), Column("reported", align="right", wraps=True)),
        Column("reruns", align="right", wraps=True),
        *(Column("here", align="right"), Column("n", align="right")),
        Column("verdict", styles=STYLES),
    ]
    if costs is not None:
        columns += [
            *(
                Column("stated", "device-h", align="right"),
                Column("foretold", "device-h", align="right", wraps=True),
            ),
            *(Column("devices", align="right"), Column("kWh", align="right")),
            Column("GiB a device", align="right"),
        ]
    rows = []
    for card in cards:
        seen: set[str] = set()
        for one in compared(card):
            first = one.targets[0]
            if file is not None and first.experiment != file:
                continue
            cells = [card.name, _subject(first), first.on, first.metric, *_said(one), one.verdict]
            if costs is not None:
                own = first.experiment or ""
                cells += _cost(card, own, costs) if own not in seen else [None] * 5
                seen.add(own)
            rows.append(tuple(cells))
    return Grid(tuple(columns), tuple(rows))


def reported(card: Card) -> Grid:
    """Return what was reported, each figure with where it stands."""
    columns = (
        *(Column("experiment or model", wraps=True), Column("on", wraps=True), Column("metric")),
        *(Column("value", align="right"), Column("by"), Column("source", wraps=True)),
    )
    rows = [
        (_subject(t), t.on, t.metric, shown(t), t.by, f"{t.source} ({t.status})")
        for t in card.targets
    ]
    return Grid(columns, tuple(rows))


def reached(card: Card) -> Grid | None:
    """Return what came out here; None where nothing was run."""
    results = read_results(card)
    if not results:
        return None
    verdicts = {
        (one.result.experiment, one.result.metric): _told(one)
        for one in compared(card)
        if one.result is not None
    }
    columns = (
        *(Column("experiment"), Column("metric"), Column("here", align="right"), Column("runs")),
        *(Column("against", wraps=True), Column("hours", align="right")),
        *(Column("hardware", wraps=True), Column("commit", wraps=True)),
    )
    rows = [
        (
            *(one.experiment, one.metric, spread(one), _repeats(one)),
            *(verdicts.get((one.experiment, one.metric), ""), f"{one.hours:.2f}", one.hardware),
            f"{(one.commit or '-')[:10]}{' and what was uncommitted' * one.uncommitted}",
        )
        for one in results
    ]
    return Grid(columns, tuple(rows))


def stated(card: Card) -> Grid | None:
    """Return what the trainings are said to have cost; None where nothing is said."""
    if not card.compute:
        return None
    columns = (
        *(Column("experiment"), Column("devices"), Column("device-hours", align="right")),
        Column("source", wraps=True),
    )
    rows = [
        (c.experiment, _devices(c), _number(c.device_hours), f"{c.source} ({c.status})")
        for c in card.compute
    ]
    return Grid(columns, tuple(rows))


def figures(card: Card) -> str:
    """Return the part of a card's README that holds its figures, as Markdown."""
    parts = ["## Reported", reported(card).markdown()]
    if (cost := stated(card)) is not None:
        parts += ["## What it is said to cost", cost.markdown()]
    if card.deviations:
        parts += ["## Where this recipe differs", _listed(card.deviations)]
    parts.append("## What came out here")
    if (grid := reached(card)) is None:
        parts.append("Not run.\n")
    else:
        parts.append(grid.markdown())
        for one in read_results(card):
            about = [f"{one.experiment}, {one.metric}: {one.why}"] if one.why else []
            about += [f"{one.experiment}: {text}" for text in one.deviations]
            parts += [_listed(about)] if about else []
    if card.planned:
        parts += ["## Planned", _listed(card.planned)]
    return "\n".join([BEGIN, "", *(f"{part.rstrip()}\n" for part in parts), END])


def update_readme(card: Card) -> bool:
    """Write a card's figures into its README; return whether that changed anything.

    Raises:
        UserError: the README is missing, or lacks the two lines that they stand between.
    """
    path = card.folder / README
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"card {card.name} has no {path}") from error
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{path}: needs the lines {BEGIN} and {END}, between which figures stand")
    new = f"{before}{figures(card)}{after}"
    if new != text:
        write_text(path, new)
    return new != text


def shown(target: Target) -> str:
    """Return a figure with its unit; one that was not read says so beside it."""
    value = f"{target.value:g}{f' {target.unit}' if target.unit else ''}"
    return f"{value} recalled" if target.status == "recalled" else value


def spread(result: Result) -> str:
    """Return a mean with its deviation."""
    digits = 2 if result.unit == "%" else 4
    text = f"{result.value:.{digits}f}"
    if result.std is not None:
        text += f" ± {result.std:.{digits}f}"
    return f"{text} {result.unit}".strip()


def _said(one: Compared) -> list[object]:
    by = {who: [shown(t) for t in one.targets if t.by == who] for who in ("paper", "rerun")}
    runs = None if one.result is None else len(one.result.values)
    here = None if one.result is None else spread(one.result)
    return [", ".join(by["paper"]), ", ".join(by["rerun"]), here, runs]


def _told(one: Compared) -> str:
    assert one.difference is not None
    return f"{one.verdict}: {one.difference:+.2f} from {shown(one.nearest)} ({one.nearest.by})"


def _subject(target: Target) -> str:
    return " ".join(filter(None, (target.experiment, target.model)))


def _repeats(result: Result) -> str:
    if result.folds:
        return f"{len(result.folds)} folds"
    return f"seeds {', '.join(map(str, result.seeds))}"


def _devices(compute: Compute) -> str:
    number = "" if compute.devices is None else f"{compute.devices} x "
    return f"{number}{compute.device}" if compute.device else number.removesuffix(" x ")


def _cost(card: Card, file: str, costs: Mapping[Path, Cost]) -> list[object]:
    said = next((c.device_hours for c in card.compute if c.experiment == file), None)
    cost = costs.get(card.folder / file)
    if cost is None:
        return [_number(said), None, None, None, None]
    hours = cost.note or _number(cost.device_hours)
    return [_number(said), hours, cost.devices, _number(cost.kwh), _number(cost.gib)]


def _number(value: float | None) -> str | None:
    if value is None:
        return None
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _listed(texts: Sequence[str]) -> str:
    return "\n".join(f"- {text}" for text in texts) + "\n"
