"""Signs of life of a run's ranks: a small file each, and which rank holds the others up.

Each rank rewrites ``heartbeats/RANK`` every few seconds (`mmlight.trainer.heartbeat`), so its
time of change says when the rank was last seen. All ranks pass the same places of a training in the
same order; where one stands still the others wait for it in a collective, at a later place or at
the same. So the culprit is a rank that is not heard of, or else the one that has passed the fewest.
"""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from mmlight.runs.slurm.durations import readable

HEARTBEATS = "heartbeats"
# Overwritten in place by one short write: a reader finds a whole entry, at any time.
_BYTES = 512
# A rank that has missed this much beside two of its beats is not heard of.
_SILENT_S = 20.0
# Without a step for so long, and twice the longest time so far, a run stands still.
_STILL_S = 60.0


@dataclass(frozen=True)
class Beat:
    """Where a rank was when it was last seen.

    Attributes:
        rank: its number.
        world: how many ranks there are.
        host: its machine.
        pid: its process there.
        step: optimiser steps made.
        passed: places of the training passed since it started.
        doing: what it does since the last of them.
        still_s: for how long it had been doing that.
        longest_s: the longest time between two places so far.
        every_s: how often it writes.
        at: when it wrote, seconds since 1970, by the clock of the file system.
    """

    rank: int
    world: int
    host: str
    pid: int
    step: int
    passed: int
    doing: str
    still_s: float
    longest_s: float
    every_s: float
    at: float = 0.0

    def is_silent(self, now: float) -> bool:
        """Return whether the rank was not heard of when it should have been."""
        return now - self.at > 2 * self.every_s + _SILENT_S

    def still(self, now: float) -> float:
        """Return for how long the rank has passed no place."""
        return max(0.0, now - self.at) + self.still_s


@dataclass(frozen=True)
class Stall:
    """Who holds a run up.

    Attributes:
        text: which rank, for how long and why, for people.
        host: the machine of the rank; None where it is all of them.
    """

    text: str
    host: str | None


def write_beat(run: Path, beat: Beat) -> None:
    """Write a rank's file, whose time of change becomes the beat's."""
    folder = run / HEARTBEATS
    folder.mkdir(exist_ok=True)
    handle = os.open(folder / str(beat.rank), os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        os.pwrite(handle, json.dumps(asdict(beat)).encode().ljust(_BYTES), 0)
    finally:
        os.close(handle)


def remove_beat(run: Path, rank: int) -> None:
    """Remove the file of a rank that has done its work; the last one removes the folder."""
    with suppress(OSError):
        (run / HEARTBEATS / str(rank)).unlink()
        (run / HEARTBEATS).rmdir()


def read_beats(run: Path, *, since: float = 0.0) -> list[Beat]:
    """Return the ranks' beats in their order, without those that an earlier start left.

    Args:
        run: the run's folder.
        since: when its job began, seconds since 1970.
    """
    found = []
    try:
        with os.scandir(run / HEARTBEATS) as entries:
            paths = [Path(entry.path) for entry in entries if entry.name.isdecimal()]
    except OSError:
        return []
    for path in paths:
        beat = _read(path)
        if beat is not None and beat.at >= since:
            found.append(beat)
    # An earlier start may have had more ranks.
    world = max(found, key=lambda beat: beat.at).world if found else 0
    return sorted((b for b in found if b.rank < world), key=lambda beat: beat.rank)


def step_age(beats: Sequence[Beat], now: float) -> float | None:
    """Return how long ago a rank last got on; None without any beat."""
    return min((beat.still(now) for beat in beats), default=None)


def stall(beats: Sequence[Beat], now: float, *, limit_s: float | None = None) -> Stall | None:
    """Return who holds a run up; None where it gets on.

    Args:
        beats: of all ranks.
        now: seconds since 1970.
        limit_s: how long a rank that is alive may pass no place; None: a minute, or twice the
            longest time so far.
    """
    if not beats:
        return None
    silent = [beat for beat in beats if beat.is_silent(now)]
    if silent:
        slowest = min(silent, key=lambda beat: beat.at)
        # Ranks that fell silent together were stopped together, or can't write any more.
        together = [b for b in silent if b.at - slowest.at <= 2 * b.every_s]
        heard = readable(now - slowest.at)
        why = f"not heard of for {heard}: stopped, or its machine hangs"
        return _stall_of(slowest, together, beats, now, why)
    slowest = min(beats, key=lambda beat: (beat.passed, -beat.still(now)))
    limit = max(_STILL_S, 2 * slowest.longest_s) if limit_s is None else limit_s
    if slowest.still(now) < limit:
        return None
    return _stall_of(slowest, [b for b in beats if b.passed == slowest.passed], beats, now, None)


def _stall_of(
    slowest: Beat, alike: Sequence[Beat], beats: Sequence[Beat], now: float, why: str | None
) -> Stall:
    who, host = f"rank {slowest.rank} on {slowest.host}", slowest.host
    if len(alike) == len(beats) > 1:
        who, host = f"all {len(beats)} ranks", ""
    elif len(alike) > 1:
        who += f" and {len(alike) - 1} more"
    text = f"{who}: no step for {readable(slowest.still(now))} ({why or slowest.doing})"
    return Stall(text, host or None)


def _read(path: Path) -> Beat | None:
    try:
        # A pipe that nobody writes to would be waited for.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        values = json.loads(os.pread(handle, _BYTES, 0))
        values["at"] = os.fstat(handle).st_mtime
        beat = Beat(**values)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    finally:
        os.close(handle)
    is_whole = all(
        isinstance(getattr(beat, f.name), str if f.type is str else int | float)
        for f in fields(Beat)
    )
    return beat if is_whole else None
