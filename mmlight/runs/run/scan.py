"""Reading many run folders quickly: each file of a run is read when it is asked for, once.

Whatever a run's files hold, the other runs are shown: what cannot be read is named, once, and is as
if it were not there.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mmlight.files import warn_once
from mmlight.runs.run.attempts import ATTEMPTS, Attempts, attempts_in
from mmlight.runs.run.config_text import look_up
from mmlight.runs.run.heartbeats import Beat, read_beats
from mmlight.runs.run.metrics_log import AXES, read_rows, rows_in
from mmlight.runs.run.submission import CANCELLED, Submission
from mmlight.text_file import read_regular

# Its address at W&B, in the run's folder.
WANDB_URL = "wandb-url"
# A run's folder holds one of these.
_SIGNS = frozenset(("submission.json", "summary.json", "metrics.jsonl", "config.yaml"))
# The last rows of a log of metrics fit in, and mostly the last of them in the second.
_TAIL_BYTES, _LAST_BYTES = 1 << 16, 1 << 12
# Of a file that is read whole.
_LARGEST = 1 << 24
_DECODER = json.JSONDecoder()
_JOB = re.compile(r"\d+(_\d+)?")


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
        text = self._summary_text
        return None if text is None else self._object("summary.json", text)

    @cached_property
    def provenance(self) -> Mapping[str, Any] | None:
        """Of what it was made (`provenance.json`); None where there is none, or half of one."""
        data = self._read("provenance.json")
        return None if data is None else self._object("provenance.json", data)

    @cached_property
    def status(self) -> str | None:
        """How it ended, as the summary has it."""
        found = self._part_of_summary("status")
        return str(found) if found else None

    @cached_property
    def final(self) -> dict[str, float]:
        """The last value of each metric, as the summary has them."""
        final = self._part_of_summary("final")
        return _numbers(final) if isinstance(final, dict) else {}

    @cached_property
    def submission(self) -> Submission | None:
        """How it was given to SLURM; None where it was not, or where that cannot be read."""
        if (data := self._read("submission.json")) is None:
            return None
        values = self._object("submission.json", data)
        try:
            return None if values is None else Submission.parse(values)
        except (ValueError, TypeError, KeyError):
            self._left_out("submission.json")
            return None

    @cached_property
    def attempts(self) -> Attempts:
        """How its processes began and ended."""
        data = self._read(ATTEMPTS)
        return Attempts(()) if data is None else attempts_in(data.decode(errors="replace"))

    @cached_property
    def monitor(self) -> str | None:
        """What its best checkpoint is chosen by (`checkpoint.monitor`)."""
        if (text := self._summary_text) is not None:
            # Those of earlier versions lack it: 10,000 configurations would take seconds to read.
            found = self._part_of_summary("monitor") if '"monitor"' in text else None
        elif self.submission is not None:
            found = self.submission.monitor
        else:
            found = look_up(self.config_text(), "checkpoint.monitor")
        return found if isinstance(found, str) else None

    @cached_property
    def user(self) -> str | None:
        """Whose it is: who submitted it, else the folder's owner; None where that has no name."""
        if self.submission is not None:
            return self.submission.user
        try:
            return self.path.owner()
        except (KeyError, OSError):
            return None

    @property
    def wandb_url(self) -> str | None:
        """Its address at W&B; None where it never got through."""
        data = self._read(WANDB_URL)
        return data.decode(errors="replace").strip() or None if data else None

    @property
    def jobs(self) -> list[str]:
        """Its jobs, the newest last: those submitted, and those that a job submitted after it."""
        events = self.attempts.events
        later = [str(e["job"]) for e in events if e["event"] == "resubmitted" and "job" in e]
        first = self.submission.jobs if self.submission else ()
        jobs = {job for job in (*first, *later) if _JOB.fullmatch(job)}
        # Job ids rise; a task of an array stands by its array's.
        return sorted(jobs, key=lambda job: [int(part) for part in job.split("_")])

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The last rows of the log of metrics, as many as 64 KB hold, in order."""
        return rows_in(self._tail.decode(errors="replace").split("\n"))

    def all_rows(self) -> list[dict[str, Any]]:
        """Return all rows of the log of metrics, one for each step."""
        log = self.path / "metrics.jsonl"
        if log.exists() and not log.is_file():
            self._left_out(log.name)
            return []
        return read_rows(log)

    @cached_property
    def last_row(self) -> dict[str, Any]:
        """The last whole row of the log of metrics, without parsing the others; or nothing."""
        for line in _backwards(self._tail_of(_LAST_BYTES)):
            if found := rows_in([line]):
                return found[0]
        return next((row for line in _backwards(self._tail) for row in rows_in([line])), {})

    @cached_property
    def was_cancelled(self) -> bool:
        """Whether `mmlight cancel` has ended it."""
        return os.path.lexists(f"{self.path}/{CANCELLED}")

    @cached_property
    def logged_at(self) -> float:
        """When a row was last logged, seconds since 1970; 0 where there is none."""
        return self._mtime("metrics.jsonl") or 0.0

    @cached_property
    def touched_at(self) -> float:
        """When something was last logged, seconds since 1970."""
        return max(self.logged_at, self._mtime(ATTEMPTS) or 0.0) or self._mtime("") or 0.0

    @cached_property
    def ended_at(self) -> float:
        """When the summary was written, seconds since 1970; 0 where there is none."""
        return self._mtime("summary.json") or 0.0

    @property
    def is_summed_up(self) -> bool:
        """Whether the summary tells of all rows; a run that goes on logs some after it."""
        return self.logged_at <= self.ended_at + 1

    @property
    def step(self) -> int:
        """Optimiser steps made, as far as is logged."""
        last = self.attempts.events[-1] if self.attempts.events else {}
        if last.get("event") == "end" and self.attempts.step is not None:
            return self.attempts.step  # no row is of a later one
        return max(int(self.last_row.get("step", 0)), self.attempts.step or 0)

    def last(self, metric: str) -> float | None:
        """Return the last value of a metric among `rows`; only rows that may hold it are parsed."""
        quoted = json.dumps(metric).encode()
        end = len(self._tail)
        while (found := self._tail.rfind(quoted, 0, end)) >= 0:
            begin = self._tail.rfind(b"\n", 0, found) + 1
            stop = self._tail.find(b"\n", found)
            line = self._tail[begin : None if stop < 0 else stop]
            if (row := rows_in([line.decode(errors="replace")])) and metric in row[0]:
                return float(row[0][metric])
            end = begin
        return None

    def last_metrics(self) -> dict[str, float]:
        """Return the last value of each metric among `rows`, the latest first."""
        found: dict[str, float] = {}
        for row in reversed(self.rows):
            for name, value in row.items():
                if name not in AXES:
                    found.setdefault(name, float(value))
        return found

    def beats(self, *, since: float | None = None) -> list[Beat]:
        """Return the last signs of life of its ranks, without those that an earlier start left.

        Args:
            since: when its job began, seconds since 1970; None: as far as its attempts tell.
        """
        if since is None:
            starts = [e.get("time", 0.0) for e in self.attempts.events if e["event"] == "start"]
            since = max(starts, default=0.0)
        return read_beats(self.path, since=since)

    def config_text(self) -> str:
        """Return the configuration that it ran with, or will; empty where there is none."""
        for name in ("config.yaml", "submitted.yaml"):
            if (data := self._read(name)) is not None:
                return data.decode(errors="replace")
        return ""

    def is_run(self) -> bool:
        """Return whether the folder is that of a run."""
        try:
            return not _SIGNS.isdisjoint(os.listdir(self.path))
        except OSError:
            return False

    @cached_property
    def _summary_text(self) -> str | None:
        data = self._read("summary.json")
        return None if data is None else data.decode(errors="replace")

    def _part_of_summary(self, key: str) -> Any:
        """Return one of its values; parsing the packages and all else takes five times as long."""
        text = self._summary_text or ""
        mark = f'\n  "{key}": '  # as `write_json` indents what lies at the top
        try:
            return _DECODER.raw_decode(text, text.index(mark) + len(mark))[0]
        except (ValueError, RecursionError):
            return (self.summary or {}).get(key)

    @cached_property
    def _tail(self) -> bytes:
        return self._tail_of(_TAIL_BYTES)

    def _tail_of(self, count: int) -> bytes:
        data = self._read("metrics.jsonl", tail=count) or b""
        # The first line is whole only where the file begins with it.
        return data if len(data) < count else data.partition(b"\n")[2]

    def _read(self, name: str, *, tail: int | None = None) -> bytes | None:
        """Return a file's bytes, or the last of them; None where there is none to be read."""
        try:
            data = read_regular(
                f"{self.path}/{name}", most=tail or _LARGEST + 1, end=tail is not None
            )
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:
            data = None
        if data is None or len(data) > _LARGEST:
            self._left_out(name)
            return None
        return data

    def _object(self, name: str, data: bytes | str) -> dict[str, Any] | None:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            return value
        self._left_out(name)
        return None

    def _left_out(self, name: str) -> None:
        warn_once(f"{self.path}/{name}: cannot be read, and is left out")

    def _mtime(self, name: str) -> float | None:
        try:
            return os.stat(f"{self.path}/{name}").st_mtime
        except OSError:
            return None


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
            if ScannedRun(path).is_run():
                yield path


def _folders(above: Path) -> list[Path]:
    try:
        with os.scandir(above) as entries:
            names = [e.name for e in entries if not e.name.startswith(".") and e.is_dir()]
    except OSError:
        return []
    return [above / name for name in sorted(names)]


def _backwards(data: bytes) -> Iterator[str]:
    """Yield the lines, the last one first."""
    end = len(data)
    while end > 0:
        begin = data.rfind(b"\n", 0, end) + 1
        if begin < end:
            yield data[begin:end].decode(errors="replace")
        end = begin - 1


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return those that are numbers, or a number's text (nan, inf)."""
    found = {}
    for name, value in values.items():
        try:
            found[name] = float(value)
        except (TypeError, ValueError, OverflowError):
            continue
    return found
