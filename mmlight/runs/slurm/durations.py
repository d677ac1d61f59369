"""Durations, as SLURM writes them and as people say them."""

import re

from mmlight.errors import UserError

_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")


def seconds(time: str) -> int:
    """Return a time limit as SLURM writes it in seconds.

    Args:
        time: ``MINUTES``, ``MINUTES:SECONDS``, ``HOURS:MINUTES:SECONDS``, ``DAYS-HOURS``,
            ``DAYS-HOURS:MINUTES`` or ``DAYS-HOURS:MINUTES:SECONDS``.

    Raises:
        UserError: it is none.
    """
    match = _TIME.fullmatch(time)
    if match is None:
        raise UserError(f"time: {time!r} is no time limit; write it as 1-12:00:00, 04:00:00 or 90")
    days = match[1]
    first, second, third = (int(part) if part else 0 for part in match.groups()[1:])
    if days is not None:
        return ((int(days) * 24 + first) * 60 + second) * 60 + third
    if match[4] is not None:
        return (first * 60 + second) * 60 + third
    return first * 60 + second


def readable(seconds: float) -> str:
    """Return a duration as people say it: ``45 s``, ``12 min``, ``3.5 h``, ``2.1 days``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"
