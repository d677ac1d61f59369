"""The log of metrics: `metrics.jsonl`, flushed row by row, and `metrics.csv`, made from it."""

import errno
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO

from mmlight.errors import naming
from mmlight.files import csv_text, json_objects, plain, warn_once, write_text

AXES = ("step", "epoch", "samples", "tokens", "wall_s")
# The last rows of a log of metrics fit in, and mostly the last of them in the second.
_TAIL_BYTES, _LAST_BYTES = 1 << 16, 1 << 12


class MetricsLog:
    """Appends rows of metrics; a run that is resumed goes on in the same files.

    The JSON lines are the truth: each is with the operating system before `append` returns, so that
    a killed process loses none. The CSV holds one line per step (entries of one step merged, later
    ones winning) and a column for every metric; it is written anew every few seconds, and last by
    `write_csv`.

    Args:
        jsonl: the file of JSON lines; continued where it exists.
        csv_path: the table.
    """

    def __init__(self, jsonl: Path, *, csv_path: Path) -> None:
        self._jsonl = jsonl
        self._csv = csv_path
        self._file: TextIO | None = None
        self._csv_due = 0.0
        entries = read_entries(jsonl)
        self._restart(entries)
        # A row begun by a killed process: the next one must not be glued to it.
        if jsonl.exists() and len(entries) != len(jsonl.read_bytes().splitlines()):
            self._rewrite(entries)

    @property
    def wall_s(self) -> float:
        """Seconds this run has taken, over all of its restarts (not the time between them)."""
        return self._wall_before_s + time.monotonic() - self._started

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per step, in order of steps."""
        return [self._rows[step] for step in sorted(self._rows)]

    def append(self, metrics: Mapping[str, float], axes: Mapping[str, int]) -> None:
        """Log `metrics`.

        Args:
            metrics: values by name, such as ``val/loss``.
            axes: how far training is: optimiser steps done (`step`), the `epoch` that the last
                belonged to, training `samples` and, where there is text, `tokens` of all ranks.
        """
        values = {name: value for name, value in metrics.items() if name not in AXES}
        entry = plain({**axes, "wall_s": round(self.wall_s, 3), **values})
        if self._file is None:
            self._jsonl.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._jsonl.open("a")
        with naming(self._jsonl):
            self._file.write(json.dumps(entry, allow_nan=False) + "\n")
            self._file.flush()
        self._rows.setdefault(entry["step"], {}).update(entry)
        if time.monotonic() >= self._csv_due:
            self.write_csv()

    def sync(self) -> None:
        """See that all rows are on the disk: a checkpoint that counts them is about to be.

        Raises:
            FileNotFoundError: somebody removed the file.
        """
        if self._file is None:
            return
        if not self._jsonl.exists():
            said = "the run's folder was removed while the run went on"
            raise FileNotFoundError(errno.ENOENT, said, str(self._jsonl))
        with naming(self._jsonl):
            os.fsync(self._file.fileno())

    def rewind(self, step: int) -> None:
        """Drop what was logged after `step`, because training goes on from there.

        Args:
            step: optimiser steps in the checkpoint; 0 for training from the start.
        """
        entries = read_entries(self._jsonl)
        kept = [entry for entry in entries if entry["step"] <= step] if step else []
        if len(kept) < len(entries):
            self._rewrite(kept)
            self._restart(kept)
            self.write_csv()

    def write_csv(self) -> None:
        """Write the table (atomically)."""
        began = time.monotonic()
        self.sync()
        rows = self.rows()
        names = dict.fromkeys(name for row in rows for name in row)
        axes = [name for name in AXES if name != "tokens" or name in names]
        write_text(self._csv, csv_text(rows, list(dict.fromkeys([*axes, *names]))))
        # At most about a hundredth of the time goes into rewriting, however long the table.
        self._csv_due = time.monotonic() + max(5.0, 100 * (time.monotonic() - began))

    def close(self) -> None:
        """Write the table and close the file; a later `append` opens it again."""
        try:
            if self._rows:
                self.write_csv()
        finally:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _restart(self, entries: list[dict[str, Any]]) -> None:
        self._rows = by_step(entries)
        self._wall_before_s = max((float(e.get("wall_s", 0)) for e in entries), default=0.0)
        self._started = time.monotonic()

    def _rewrite(self, entries: list[dict[str, Any]]) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        write_text(self._jsonl, "".join(json.dumps(entry) + "\n" for entry in entries))


class LogTail:
    """The last rows of a log of metrics, as many as 64 KB hold: a log may have a million.

    Args:
        read: returns at most so many last bytes of the file; None where there is none to be read.
    """

    def __init__(self, read: Callable[[int], bytes | None]) -> None:
        self._read = read

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The rows, in order."""
        return rows_in(self._lines(_TAIL_BYTES))

    @cached_property
    def last_row(self) -> dict[str, Any]:
        """The last whole row, without parsing the others; or nothing."""
        sizes = (_LAST_BYTES, _TAIL_BYTES)
        lines = (line for size in sizes for line in reversed(self._lines(size)))
        return next((row for line in lines for row in rows_in([line])), {})

    @property
    def steps_per_s(self) -> float | None:
        """How fast the steps were made; None where that cannot be told.

        Time spent waiting, validating and saving between them counts as theirs.
        """
        rows = [row for row in self.rows if "wall_s" in row]
        if len(rows) < 2:
            return None
        steps = rows[-1]["step"] - rows[0]["step"]
        seconds = rows[-1]["wall_s"] - rows[0]["wall_s"]
        return float(steps / seconds) if steps > 0 and seconds > 0 else None

    def _lines(self, num_bytes: int) -> list[str]:
        data = self._read(num_bytes) or b""
        # The first line is whole only where the file begins with it.
        whole = data if len(data) < num_bytes else data.partition(b"\n")[2]
        return whole.decode(errors="replace").split("\n")


def read_entries(jsonl: Path) -> list[dict[str, Any]]:
    """Return the entries of a `metrics.jsonl`; lines that can't be read are named, and left out."""
    if not jsonl.exists():
        return []
    # What follows the last line end is empty, or a row that a killed process began.
    lines = jsonl.read_text(errors="replace").split("\n")[:-1]
    entries: list[dict[str, Any]] = []
    damaged = []
    for number, line in enumerate(lines, 1):
        if found := rows_in([line]):
            entries += found
        elif line:
            damaged.append(str(number))
    if damaged:
        more = f" and {len(damaged) - 5} more" if len(damaged) > 5 else ""
        numbers = f"line{'s' * (len(damaged) > 1)} {', '.join(damaged[:5])}{more}"
        warn_once(f"{jsonl}: {numbers} cannot be read, and left out")
    return entries


def rows_in(lines: Iterable[str]) -> list[dict[str, Any]]:
    """Return the rows in lines of JSON: objects with a step and numbers; others are damaged."""
    return [row for row in json_objects(lines) if _is_row(row)]


def _is_row(row: dict[str, Any]) -> bool:
    try:
        for value in row.values():
            float(value)  # the texts nan and inf are numbers, see `plain`
    except (TypeError, ValueError, OverflowError):
        return False
    counts = [row.get("step", -1), row.get("epoch", 0), row.get("samples", 0)]
    return all(isinstance(count, int) and 0 <= count < 2**63 for count in counts) and (
        isinstance(row.get("wall_s", 0.0), int | float) and math.isfinite(row.get("wall_s", 0.0))
    )


def by_step(entries: Iterable[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Return one row per step, in their order; of entries of the same step, later values win."""
    rows: dict[int, dict[str, Any]] = {}
    for entry in entries:
        rows.setdefault(entry["step"], {}).update(entry)
    return dict(sorted(rows.items()))


def read_rows(jsonl: Path) -> list[dict[str, Any]]:
    """Return the rows of a `metrics.jsonl`, one per step, in order of steps."""
    return list(by_step(read_entries(jsonl)).values())


def final_values(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the last value of each metric."""
    return {name: float(value) for row in rows for name, value in row.items() if name not in AXES}
