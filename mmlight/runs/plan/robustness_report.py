"""What a model bears: its scores on spoiled data, by group, and before and after calibration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any, Literal

from rich.console import Group as Lines

from mmlight.files import csv_text, write_json, write_text
from mmlight.runs.run.folder import Run
from mmlight.runs.show.grid import Column, Grid
from mmlight.scores import format_value

CLEAN = "clean"
# What temperature scaling changes, under the same name with this behind it.
SCALED = "_scaled"


@dataclass(frozen=True)
class Measured:
    """Scores of one evaluation.

    Attributes:
        corruption: such as ``image noise``; ``clean`` for the data as it is.
        severity: 1 to 5; 0 for clean data.
        amount: what the severity stands for, None for clean data.
        scores: by name without a stage.
    """

    corruption: str
    severity: int
    amount: float | None
    scores: Mapping[str, float]

    def row(self) -> dict[str, Any]:
        """Return it in one row, by column."""
        about = {"corruption": self.corruption, "severity": self.severity, "amount": self.amount}
        return {**about, **self.scores}


@dataclass(frozen=True)
class GroupScores:
    """Scores of one group of the clean data.

    Attributes:
        name: the group.
        num_samples: its labelled samples.
        scores: by name.
        is_trained: whether training had samples of this group; None where that is not known.
    """

    name: str
    num_samples: int
    scores: Mapping[str, float]
    is_trained: bool | None = None


@dataclass(frozen=True)
class Robustness:
    """A whole report.

    Attributes:
        stage: the split that was spoiled.
        metric: what is shown, without its stage.
        direction: whether the larger or the smaller value is better.
        measured: clean first, then each corruption by severity.
        chance: the metric of always answering the commonest class; None where that means nothing.
        temperature: fitted on the clean validation set; None where there is none.
        note: why there is no temperature.
        group_field: what tells groups apart; None without groups.
        groups: their scores.
    """

    stage: str
    metric: str
    direction: Literal["min", "max"]
    measured: Sequence[Measured]
    chance: float | None = None
    temperature: float | None = None
    note: str | None = None
    group_field: str | None = None
    groups: Sequence[GroupScores] = field(default_factory=tuple)

    @property
    def corruptions(self) -> list[str]:
        """The corruptions, in their order."""
        return list(dict.fromkeys(m.corruption for m in self.measured if m.severity))

    @property
    def severities(self) -> list[int]:
        """The severities, ascending."""
        return sorted({m.severity for m in self.measured if m.severity})

    def clean(self, name: str | None = None) -> float:
        """Return a score of the clean data (the metric by default)."""
        return float(self.measured[0].scores[name or self.metric])

    def at(self, corruption: str, severity: int) -> Measured:
        """Return one evaluation."""
        return next(
            m for m in self.measured if (m.corruption, m.severity) == (corruption, severity)
        )

    def mean_of(self, corruption: str | None = None, name: str | None = None) -> float:
        """Return the mean of a score over the severities of a corruption, or over all of them.

        Each corruption counts alike (arXiv 1903.12261, section 4.2; its division by the errors of
        another model is left out, since there is none for these data).
        """
        names = self.corruptions if corruption is None else [corruption]
        key = name or self.metric
        return mean(
            mean(m.scores[key] for m in self.measured if m.corruption == each) for each in names
        )

    def relative_drop(self, corruption: str | None = None) -> float:
        """Return by which part of its clean value the metric is worse on spoiled data."""
        clean, spoiled = self.clean(), self.mean_of(corruption)
        if not clean:
            return float("nan")
        return (clean - spoiled if self.direction == "max" else spoiled - clean) / abs(clean)

    def worst_group(self) -> GroupScores | None:
        """Return the group with the worst metric, None without groups."""
        sign = 1 if self.direction == "max" else -1
        return min(self.groups, key=lambda g: sign * g.scores[self.metric], default=None)

    def group_gap(self) -> float:
        """Return how far apart the best and the worst group are."""
        values = [group.scores[self.metric] for group in self.groups]
        return max(values) - min(values)

    def summary(self) -> dict[str, float]:
        """Return the figures for the log, by name."""
        found = {f"clean/{name}": value for name, value in self.measured[0].scores.items()}
        shared = set.intersection(*(set(m.scores) for m in self.measured))
        for name in self.measured[0].scores:
            if name in shared and self.corruptions:
                found[f"mean/{name}"] = self.mean_of(name=name)
        for corruption in self.corruptions:
            found[f"{corruption.replace(' ', '_')}/{self.metric}"] = self.mean_of(corruption)
        if self.corruptions:
            found["relative_drop"] = self.relative_drop()
        if self.temperature is not None:
            found["temperature"] = self.temperature
        if (worst := self.worst_group()) is not None:
            found[f"worst_group/{self.metric}"] = worst.scores[self.metric]
            found["group_gap"] = self.group_gap()
        return {f"robustness/{name}": value for name, value in found.items()}


def write_robustness(report: Robustness, run: Run) -> None:
    """Write ``robustness.json`` and ``robustness.csv`` (a line per evaluation and per group)."""
    worst = report.worst_group()
    named = ("stage", "metric", "direction", "chance", "temperature", "note")
    rows = [m.row() for m in report.measured]
    write_json(
        run.robustness,
        {
            **{name: getattr(report, name) for name in named},
            "summary": report.summary(),
            "table": table_rows(report),
            "remarks": remarks(report),
            "evaluations": rows,
            "groups": {
                "field": report.group_field,
                "worst": worst.name if worst else None,
                "rows": [
                    {
                        "group": g.name,
                        "is_trained": g.is_trained,
                        **g.scores,
                        "num_samples": g.num_samples,
                    }
                    for g in report.groups
                ],
            },
        },
    )
    rows += [
        {"corruption": CLEAN, "severity": 0, "group": f"{report.group_field}={g.name}", **g.scores}
        for g in report.groups
    ]
    write_text(run.path / "robustness.csv", csv_text(rows))


def table_rows(report: Robustness) -> list[list[str]]:
    """Return the table as text: a heading, clean data, each corruption, all of them, each group."""
    errors = {}
    if all("calibration_error" in m.scores for m in report.measured):
        errors["ECE"] = "calibration_error"
    if report.temperature is not None:
        errors["scaled"] = f"calibration_error{SCALED}"
    severities = report.severities
    rows = [[f"{report.stage}: {report.metric}", *map(str, severities), "mean", "drop", *errors]]

    def shown(value: float) -> str:
        return format_value(report.metric, value).removesuffix(" %")

    def percent(value: float) -> str:
        return f"{100 * value:.1f}"

    def add(name: str, values: Sequence[str], mean: float, drop: str, of: list[str]) -> None:
        rows.append([name, *(values or [""] * len(severities)), shown(mean), drop, *of])

    clean = [percent(report.clean(key)) for key in errors.values()]
    add(CLEAN, (), report.clean(), "", clean)
    kinds: list[str | None] = [*report.corruptions]
    for kind in [*kinds, None] if len(kinds) > 1 else kinds:
        found = [report.at(kind, s).scores[report.metric] for s in severities] if kind else []
        spoiled = [percent(report.mean_of(kind, key)) for key in errors.values()]
        drop = percent(report.relative_drop(kind))
        add(kind or "all corruptions", [*map(shown, found)], report.mean_of(kind), drop, spoiled)
    for group in report.groups:
        mark = "*" if group.is_trained is False else ""
        name = f"{report.group_field} {group.name}{mark} ({group.num_samples})"
        scores = group.scores
        own = [percent(scores[key]) if key in scores else "" for key in errors.values()]
        add(name, (), scores[report.metric], "", own)
    return rows


def remarks(report: Robustness) -> list[str]:
    """Return what the table leaves unsaid, a sentence each."""
    said = []
    if report.corruptions:
        worse = "lower" if report.direction == "max" else "higher"
        said.append(f"drop: by how many % of its clean value {report.metric} is {worse}")
    if report.temperature is not None:
        said.append(
            "ECE: expected calibration error in %; scaled: after dividing the logits by a "
            f"temperature of {report.temperature:.3g}, fitted on the clean validation set"
        )
    if report.note:
        said.append(report.note)
    worst = report.worst_group()
    if worst is not None:
        value = format_value(report.metric, worst.scores[report.metric])
        gap = format_value(report.metric, report.group_gap())
        said.append(f"worst {report.group_field}: {worst.name} with {value}; best to worst: {gap}")
        unseen = [g for g in report.groups if g.is_trained is False]
        if unseen and len(unseen) < len(report.groups):
            seen = [g for g in report.groups if g.is_trained]
            values = [
                format_value(report.metric, mean(g.scores[report.metric] for g in groups))
                for groups in (seen, unseen)
            ]
            said.append(
                f"* not in training; mean of those in training: {values[0]}, not: {values[1]}"
            )
    return said


def format_robustness(report: Robustness) -> Lines:
    """Return the table and its remarks for the terminal."""
    heads, *rows = table_rows(report)
    columns = (Column(heads[0]), *(Column(head, align="right") for head in heads[1:]))
    return Lines(Grid(columns, tuple(map(tuple, rows))), *remarks(report))
