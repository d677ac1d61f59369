"""What a run has printed: its processes here, kept in its folder, or its jobs on SLURM."""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from mmlight.terminal import one_line

LOG, OLDER = "console.log", "console-older.log"
_MOST_BYTES = 1 << 20
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# Of rich's bar.
_BAR = "━"
_TAIL_BYTES = 1 << 14
_OURS = "mmlight: "
# What the job script's end says of what it does is no cause.
_NO_CAUSE = ("gave up", "requeueing", "job ")
# The job script begins each line of the training with its time, srun with its rank if there are
# several: `2026-01-31T12:00:00 3: text`.
_TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d (?: *(\d+): )?")
_ERROR = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b.*")


@contextmanager
def kept_console(run: Path) -> Iterator[None]:
    """Keep what this process prints from now on in a run's folder, beside printing it.

    Of more than 2 MiB the first lines are left out. A disk that is full does not end the run.
    """
    before = sys.stdout, sys.stderr
    _keep(run, f"--- {datetime.now():%Y-%m-%d %H:%M:%S}")
    out, err = _Both(sys.stdout, run), _Both(sys.stderr, run)
    sys.stdout, sys.stderr = out, err
    try:
        yield
    except BaseException as error:
        _keep(run, f"{type(error).__name__}: {error}")
        raise
    finally:
        # A library may have put something of its own there, around ours.
        sys.stdout = before[0] if sys.stdout is out else sys.stdout
        sys.stderr = before[1] if sys.stderr is err else sys.stderr


def _keep(run: Path, line: str) -> None:
    """Append a line, which is on its way to the disk when this returns."""
    shown = _ESCAPES.sub("", line).rpartition("\r")[2].rstrip()
    # Not into a folder that was removed, nor a bar.
    if not shown or _BAR in shown or not run.exists():
        return
    log = run / LOG
    with suppress(OSError):
        if log.exists() and log.stat().st_size > _MOST_BYTES:
            log.replace(run / OLDER)
        with log.open("a", encoding="utf-8", errors="replace") as file:
            file.write(f"{one_line(shown)}\n")


class _Both:
    """A stream that is written to as before, and whose whole lines are kept."""

    def __init__(self, stream: TextIO, run: Path) -> None:
        self._stream, self._run = stream, run
        self._begun = ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        self._begun = self._begun[-_MOST_BYTES:]
        for line in lines:
            _keep(self._run, line)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def log_files(run: Path, jobs: Sequence[str]) -> list[Path]:
    """Return the logs of a run's jobs, the oldest first.

    Args:
        run: the run's folder.
        jobs: its jobs; the log of an array's task lies beside the runs of the array.
    """
    found = [
        path
        for job in jobs
        for folder in (run, run.parent)
        if (path := folder / "slurm" / f"{job}.out").is_file()
    ]
    of_sweep = run.parent / f"{run.name}.log"
    local = [of_sweep] if of_sweep.is_file() else [run / OLDER, run / LOG]
    return found or [path for path in local if path.is_file()]


def rank_of(line: str) -> int | None:
    """Return the rank that has printed a line; None for the job script, srun, or the only rank."""
    match = _TIME.match(line)
    return int(match[1]) if match and match[1] else None


def tail(log: Path, num_bytes: int) -> list[str]:
    """Return the last lines of a job's log without their times and ranks; none without a log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - num_bytes))
            text = file.read(num_bytes).decode(errors="replace")
    except OSError:
        return []
    return [_TIME.sub("", line) for line in text.splitlines()]


def last_words(logs: Sequence[Path]) -> str | None:
    """Return what a failed run said last of its reason: mmlight's own line, else an exception's."""
    lines = tail(logs[-1], _TAIL_BYTES) if logs else []
    said = [line.removeprefix(_OURS) for line in lines if line.startswith(_OURS)]
    causes = [line for line in said if not line.startswith(_NO_CAUSE)]
    errors = [line.strip() for line in lines if _ERROR.fullmatch(line.strip())]
    found = causes or errors
    return found[-1] if found else None
