"""Reading many run folders quickly: each file of a run is read when it is asked for, once."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mmlight.runs.attempts import Attempts, read_attempts
from mmlight.runs.metrics_log import AXES, rows_in
from mmlight.runs.slurm.submission import CANCELLED, Submission

# A run's folder holds one of these.
_SIGNS = frozenset(("submission.json", "summary.json", "metrics.jsonl", "config.yaml"))
# The last rows of a log of metrics fit in.
_TAIL_BYTES = 1 << 16


@dataclass(frozen=True)
class ScannedRun:
    """A run, as far as its folder tells.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.path.parent.name

    @property
    def id(self) -> str:
        """The run's id."""
        return self.path.name

    @property
    def label(self) -> str:
        """What people call it: ``NAME/ID``."""
        return f"{self.name}/{self.id}"

    @cached_property
    def summary(self) -> Mapping[str, Any] | None:
        """What came out (`summary.json`); None where there is none, or half of one."""
        return _read_json(self.path / "summary.json")

    @cached_property
    def submission(self) -> Submission | None:
        """How it was given to SLURM; None where it was not."""
        try:
            return Submission.read(self.path)
        except (ValueError, TypeError, KeyError):
            return None

    @cached_property
    def attempts(self) -> Attempts:
        """How its processes began and ended."""
        return read_attempts(self.path)

    @property
    def jobs(self) -> list[str]:
        """Its jobs, the newest last: those submitted, and those that a job submitted after it."""
        events = self.attempts.events
        later = [str(e["job"]) for e in events if e["event"] == "resubmitted" and "job" in e]
        first = self.submission.jobs if self.submission else ()
        # Job ids rise; a task of an array stands by its array's.
        return sorted({*first, *later}, key=lambda job: [int(part) for part in job.split("_")])

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The last rows of the log of metrics, as many as 64 KB hold, in order."""
        return rows_in(self._tail)

    @cached_property
    def last_row(self) -> dict[str, Any]:
        """The last whole row of the log of metrics, without parsing the others; or nothing."""
        for line in reversed(self._tail):
            if found := rows_in([line]):
                return found[0]
        return {}

    @cached_property
    def _tail(self) -> list[str]:
        return _tail(self.path / "metrics.jsonl").splitlines()

    @cached_property
    def was_cancelled(self) -> bool:
        """Whether `mmlight cancel` has ended it."""
        return (self.path / CANCELLED).exists()

    @cached_property
    def touched_at(self) -> float:
        """When something was last logged, seconds since 1970."""
        times = (_mtime(self.path / name) for name in ("metrics.jsonl", "attempts.jsonl"))
        return max((t for t in times if t is not None), default=_mtime(self.path) or 0.0)

    @cached_property
    def ended_at(self) -> float:
        """When the summary was written, seconds since 1970; 0 where there is none."""
        return _mtime(self.path / "summary.json") or 0.0

    @property
    def step(self) -> int:
        """Optimiser steps made, as far as is logged."""
        return max(int(self.last_row.get("step", 0)), self.attempts.step or 0)

    def last(self, metric: str) -> float | None:
        """Return the last value of a metric among `rows`; only rows that may hold it are parsed."""
        quoted = json.dumps(metric)
        for line in reversed(self._tail):
            if quoted in line and (found := rows_in([line])) and metric in found[0]:
                return float(found[0][metric])
        return None

    def last_metrics(self) -> dict[str, float]:
        """Return the last value of each metric among `rows`, the latest first."""
        found: dict[str, float] = {}
        for row in reversed(self.rows):
            for name, value in row.items():
                if name not in AXES:
                    found.setdefault(name, float(value))
        return found


def scan(root: str | Path, *, name: str | None = None) -> list[ScannedRun]:
    """Return all runs below a folder, in order of name and id.

    Args:
        root: the folder of all runs.
        name: only the runs of this experiment.
    """
    return [ScannedRun(path) for path in run_folders(root, name=name)]


def run_folders(root: str | Path, *, name: str | None = None) -> Iterator[Path]:
    """Yield the folders of all runs, ``root/NAME/ID``, in order.

    Args:
        root: the folder of all runs; a missing one has none.
        name: only the runs of this experiment.
    """
    for experiment in [Path(root) / name] if name else _folders(Path(root)):
        for path in _folders(experiment):
            with os.scandir(path) as entries:
                if any(entry.name in _SIGNS for entry in entries):
                    yield path


def _folders(above: Path) -> list[Path]:
    try:
        with os.scandir(above) as entries:
            names = [e.name for e in entries if not e.name.startswith(".") and e.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [above / name for name in sorted(names)]


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    # The first line is whole only where the file begins with it.
    return text if size <= _TAIL_BYTES else text.partition("\n")[2]


def _read_json(path: Path) -> Mapping[str, Any] | None:
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _mtime(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None
