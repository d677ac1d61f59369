"""What runs of a card's experiments came to (`results.json`), and how that compares."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from mmlight.files import write_json
from mmlight.runs.papers.card import RESULTS, Card, Target
from mmlight.runs.papers.json_object import JsonObject
from mmlight.scores import known_direction

Verdict = Literal["reported", "not run", "reproduced", "better", "missed", "one run"]
# A figure counts as reached within so many standard deviations of the runs here.
_BAND = 2.0


@dataclass(frozen=True)
class Result:
    """What came out.

    Attributes:
        experiment: the YAML.
        metric: as `Target` has it.
        unit: of `value`, `std` and `values`.
        value: the mean over the runs.
        std: their standard deviation (n - 1); None with one run.
        values: of each run.
        seeds: of each run; empty for folds.
        folds: their names; empty for seeds.
        deviations: settings in which the runs differ from the card's YAML.
        hardware: what they ran on.
        hours: of all runs together, by the clock.
        kwh: their energy, where it is known.
        commit: of the code; None where there is no repository.
        uncommitted: whether something was not committed.
        runs: their labels.
        recorded: the day.
        why: what explains a miss, in the words of who recorded it.
    """

    experiment: str
    metric: str
    unit: Literal["%", ""]
    value: float
    std: float | None
    values: tuple[float, ...]
    seeds: tuple[int, ...]
    folds: tuple[str, ...]
    deviations: tuple[str, ...]
    hardware: str
    hours: float
    kwh: float | None
    commit: str | None
    uncommitted: bool
    runs: tuple[str, ...]
    recorded: str
    why: str | None


@dataclass(frozen=True)
class Compared:
    """One metric of one experiment: what was reported, and what came out here.

    Attributes:
        targets: what was reported.
        result: what came out; None where it was not run.
    """

    targets: tuple[Target, ...]
    result: Result | None

    @property
    def nearest(self) -> Target:
        """The reported figure that is nearest to what came out; the paper's where nothing did."""
        if self.result is None:
            return next((t for t in self.targets if t.by == "paper"), self.targets[0])
        value = self.result.value
        return min(self.targets, key=lambda target: abs(target.value - value))

    @property
    def difference(self) -> float | None:
        """What came out less the nearest figure."""
        return None if self.result is None else self.result.value - self.nearest.value

    @property
    def verdict(self) -> Verdict:
        """Whether a reported figure was reached, within two standard deviations of the runs."""
        if self.targets[0].experiment is None:
            return "reported"
        if self.result is None or self.difference is None:
            return "not run"
        if self.result.std is None:
            return "one run"
        if abs(self.difference) <= _BAND * self.result.std:
            return "reproduced"
        small = known_direction(self.nearest.metric) == "min"
        return "better" if (self.difference < 0) == small else "missed"


def compared(card: Card) -> list[Compared]:
    """Return the card's metrics, in the order of its targets."""
    results = {(one.experiment, one.metric): one for one in read_results(card)}
    return [
        Compared(group, results.get((group[0].experiment or "", group[0].metric)))
        for group in _groups(card.targets)
    ]


def _groups(targets: Sequence[Target]) -> list[tuple[Target, ...]]:
    """Return what is compared with one another: figures of one experiment, or of one model."""
    groups: dict[tuple[str, str, str], list[Target]] = {}
    for target in targets:
        key = (target.experiment or f"model {target.model}", target.on, target.metric)
        groups.setdefault(key, []).append(target)
    return [tuple(group) for group in groups.values()]


def read_results(card: Card) -> list[Result]:
    """Return what was recorded; nothing where that file is not there.

    Raises:
        UserError: it does not hold what `mmlight papers record` writes.
    """
    path = card.folder / RESULTS
    if not path.exists():
        return []
    top = JsonObject.of_file(path)
    found = list(top.parts("results", _result))
    top.end()
    return found


def write_results(card: Card, new: Sequence[Result]) -> None:
    """Write results beside those of other experiments and metrics, in place of earlier ones."""
    kept = {(one.experiment, one.metric): one for one in (*read_results(card), *new)}
    write_json(card.folder / RESULTS, {"results": [asdict(one) for one in kept.values()]})


def _result(one: JsonObject) -> Result:
    return Result(
        experiment=one.text("experiment"),
        metric=one.text("metric"),
        unit=one.choice("unit", ("%", "")),
        value=one.number("value"),
        std=one.optional(float, "std"),
        values=tuple(one.list_of(float, "values")),
        seeds=tuple(one.list_of(int, "seeds")),
        folds=tuple(one.list_of(str, "folds")),
        deviations=tuple(one.list_of(str, "deviations")),
        hardware=one.text("hardware"),
        hours=one.number("hours"),
        kwh=one.optional(float, "kwh"),
        commit=one.optional(str, "commit"),
        uncommitted=bool(one.optional(bool, "uncommitted")),
        runs=tuple(one.list_of(str, "runs")),
        recorded=one.text("recorded"),
        why=one.optional(str, "why"),
    )
