"""What came out of a sweep: its folder, each run's score, the table and the best configuration."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

from mmlight import yaml_text
from mmlight.compose import EXTENDS
from mmlight.errors import UserError, nearest
from mmlight.files import csv_text, warn_once, write_text
from mmlight.runs.plan.processes import last_line
from mmlight.runs.plan.sweep import Sweep, TrialRun, trial_runs
from mmlight.runs.run.folder import Run
from mmlight.runs.run.state import Queue, Word, state_of
from mmlight.runs.show.grid import Column, Grid
from mmlight.scores import format_value

State = Literal["new", "pruned"] | Word
# What the state of a combination is called, of those of its runs.
_WORST_FIRST: tuple[State, ...] = (
    *("failed", "stopped", "unknown", "cancelled", "pruned", "running", "waiting", "new"),
    "finished",
)


@dataclass(frozen=True)
class Result:
    """One combination and how it did.

    Attributes:
        number: the combination's number.
        values: by full key.
        state: `finished` when all of its runs are.
        scores: the metric of each finished run, in order of the seeds.
        wall_s: seconds of all of its runs.
        error: what a failed run said.
    """

    number: int
    values: Mapping[str, Any]
    state: State
    scores: tuple[float, ...] = ()
    wall_s: float = 0.0
    error: str | None = None

    @property
    def score(self) -> float | None:
        """The mean of the scores of a finished combination."""
        return mean(self.scores) if self.state == "finished" else None

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do, or can be done."""
        return self.state in ("finished", "pruned", "failed")

    @property
    def is_broken(self) -> bool:
        """Whether it was begun and has not come to its end, where none of its runs is active."""
        return self.state in ("failed", "stopped", "unknown", "running")


@dataclass(frozen=True)
class SweepFolder:
    """``runs/<name>/``: the sweep's files, and beside them the folders of its runs.

    Attributes:
        root: the folder of all runs.
        name: the sweep's name.
    """

    root: Path
    name: str

    @property
    def path(self) -> Path:
        """The folder."""
        return self.root / self.name

    @property
    def journal(self) -> Path:
        """Optuna's storage."""
        return self.path / "optuna.journal"

    @property
    def best_yaml(self) -> Path:
        """An experiment that extends the sweep's by the best values."""
        return self.path / "best.yaml"

    def log(self, run: TrialRun) -> Path:
        """What a run printed."""
        return self.path / f"{run.id}.log"

    def run_path(self, run: TrialRun) -> Path:
        """The folder of a run."""
        return self.path / run.id

    def open(self, sweep: Sweep) -> None:
        """Make the folder, or go on in it.

        Raises:
            UserError: it is of a sweep with other settings; only `trials` may differ.
        """
        file = self.path / "sweep.yaml"
        now = json.loads(json.dumps(dict(sweep.given)))
        now["experiment"] = os.path.relpath(sweep.experiment, self.path)
        if file.exists():
            before = yaml_text.load(file.read_text())
            for key in sorted((before.keys() | now.keys()) - {"trials"}):
                if before.get(key) != now.get(key):
                    raise UserError(
                        f"{self.path} is of a sweep with {key}: {before.get(key)}, now it is "
                        f"{now.get(key)}; give this one another --name"
                    )
        write_text(file, yaml_text.dump(now))


def read_run(folder: SweepFolder, run: TrialRun, sweep: Sweep, queue: Queue = None) -> Result:
    """Return how one run did, from its summary, or does, from SLURM's `queue` and its folder.

    Raises:
        UserError: a finished run that has no such metric.
    """
    result = Result(number=run.number, values=run.values, state="new")
    found = Run(folder.run_path(run))
    if not found.path.exists():
        if (log := folder.log(run)).exists():  # a mistake leaves no folder
            return replace(result, state="failed", error=last_line(log))
        return result
    try:
        summary = found.summary or {}
        error = None if summary.get("error") is None else str(summary["error"])
        result = replace(result, wall_s=float(summary.get("wall_s") or 0.0), error=error)
        if summary.get("status") == "finished":
            score = _score(dict(summary[sweep.value]), found.path, sweep)
            if score != score:
                return replace(result, state="failed", error=f"{sweep.metric} is nan")
            return replace(result, state="finished", scores=(score,))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        warn_once(f"{found.summary_json}: cannot be read, and is left out")
        return replace(result, state="failed", error="its summary.json is damaged")
    state = state_of(found, queue)
    why = state.why.removeprefix("failed: ") if state.word in ("failed", "stopped") else None
    if state.word == "finished":  # but without a score
        return replace(result, state="stopped", error="its summary.json is missing")
    word: State = "running" if state.word == "ending" else state.word
    return replace(result, state=word, error=result.error or why)


def _score(values: Mapping[str, Any], path: Path, sweep: Sweep) -> float:
    if sweep.metric not in values:
        raise UserError(
            f"sweep metric: run {path} has no metric '{sweep.metric}'"
            f"{nearest(sweep.metric, values)}; it has {', '.join(sorted(values))}"
        )
    value = values[sweep.metric]
    return float(value["value"] if sweep.value == "best" else value)


def read_combination(
    folder: SweepFolder,
    number: int,
    values: Mapping[str, Any],
    sweep: Sweep,
    queue: Queue = None,
) -> Result:
    """Return how the runs of one combination do; see `read_run`."""
    runs = trial_runs(sweep, number, values)
    return joined([read_run(folder, run, sweep, queue) for run in runs])


def joined(results: Sequence[Result]) -> Result:
    """Return the result of a combination from those of its runs."""
    states = [result.state for result in results]
    return replace(
        results[0],
        state=next(state for state in _WORST_FIRST if state in states),
        scores=tuple(score for result in results for score in result.scores),
        wall_s=sum(result.wall_s for result in results),
        error=next((result.error for result in results if result.error), None),
    )


def best(results: Sequence[Result], sweep: Sweep) -> Result | None:
    """Return the best finished combination; of equals, the first."""
    sign = 1 if sweep.direction == "max" else -1
    found = [result for result in results if result.score is not None]
    return max(found, key=lambda r: sign * (r.score or 0.0), default=None)


def write_results(folder: SweepFolder, results: Sequence[Result], sweep: Sweep) -> None:
    """Write ``results.csv``, and ``best.yaml`` as soon as a combination has finished."""
    rows = []
    for result in results:
        row = {
            "trial": result.number,
            "state": result.state,
            **result.values,
            "minutes": round(result.wall_s / 60, 2),
            "error": result.error or "",
        }
        if result.score is not None:
            row |= {sweep.metric: result.score, "std": spread(result)}
        rows.append(row)
    columns = ["trial", "state", *sweep.parameters, sweep.metric, "std", "minutes", "error"]
    write_text(folder.path / "results.csv", csv_text(rows, columns))
    found = best(results, sweep)
    if found is not None:
        score = format_value(sweep.metric, found.score or 0.0)
        write_text(
            folder.best_yaml,
            f"# The best of sweep {folder.name}: trial {found.number}, {sweep.metric} {score}.\n"
            + yaml_text.dump(
                {EXTENDS: os.path.relpath(sweep.experiment, folder.path), **_nested(found.values)}
            ),
        )


def spread(result: Result) -> float | str:
    """Return the standard deviation over seeds; nothing with fewer than two."""
    return stdev(result.scores) if len(result.scores) > 1 else ""


def format_results(results: Sequence[Result], sweep: Sweep) -> Grid:
    """Return the table for the terminal, best first."""
    names = ("trial", *short_names(sweep.varied), sweep.metric, "min")
    rows = []
    sign = -1 if sweep.direction == "max" else 1
    ordered = sorted(results, key=lambda r: (r.score is None, sign * (r.score or 0.0), r.number))
    for result in ordered:
        cell: str = result.state
        if result.score is not None:
            cell = format_value(sweep.metric, result.score)
            if len(result.scores) > 1:
                cell += f" ± {format_value(sweep.metric, float(spread(result)))}"
        # Optuna has not drawn yet what is None.
        drawn = [result.values.get(key) for key in sweep.varied]
        rows.append((result.number, *drawn, cell, f"{result.wall_s / 60:.1f}"))
    return Grid(tuple(Column(name, align="right") for name in names), tuple(rows))


def short_names(keys: Sequence[str]) -> list[str]:
    """Return the last parts of dotted keys, as many as tell them apart."""
    parts = [[p for p in key.split(".") if p not in ("init_args", "model", "data")] for key in keys]
    parts = [found or key.split(".") for found, key in zip(parts, keys, strict=True)]
    names = []
    for own in parts:
        count = 1
        while count < len(own) and sum(other[-count:] == own[-count:] for other in parts) > 1:
            count += 1
        names.append(".".join(own[-count:]))
    return names


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in values.items():
        *above, last = key.split(".")
        place = nested
        for part in above:
            place = place.setdefault(part, {})
        place[last] = value
    return nested
