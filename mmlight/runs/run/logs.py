"""What the jobs of a run, or its processes here, have printed."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from mmlight.runs.run.console_log import LOG, OLDER

_TAIL_BYTES = 1 << 14
_OURS = "mmlight: "
# What the job script's end says of what it does is no cause.
_NO_CAUSE = ("gave up", "requeueing", "job ")
# The job script begins each line of the training with its time, srun with its rank if there are
# several: `2026-01-31T12:00:00 3: text`.
_TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d (?: *(\d+): )?")
_ERROR = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b.*")


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
    """Return the rank that has printed a line; None for the job script, srun, or the only rank.

    Args:
        line: of a job's log.
    """
    match = _TIME.match(line)
    return int(match[1]) if match and match[1] else None


def tail(log: Path, num_bytes: int) -> list[str]:
    """Return the last lines of a job's log without their times and ranks; none without a log.

    Args:
        log: the log.
        num_bytes: how far from its end they begin.
    """
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - num_bytes))
            text = file.read(num_bytes).decode(errors="replace")
    except OSError:
        return []
    return [_TIME.sub("", line) for line in text.splitlines()]


def last_words(logs: Sequence[Path]) -> str | None:
    """Return what a failed run said last of its reason: mmlight's own line, else an exception's.

    Args:
        logs: as `log_files` returns them.
    """
    lines = tail(logs[-1], _TAIL_BYTES) if logs else []
    said = [line.removeprefix(_OURS) for line in lines if line.startswith(_OURS)]
    causes = [line for line in said if not line.startswith(_NO_CAUSE)]
    errors = [line.strip() for line in lines if _ERROR.fullmatch(line.strip())]
    found = causes or errors
    return found[-1] if found else None
