"""Finds, in an error of any depth, what the user did wrong."""

import re

from lightning.fabric.utilities.exceptions import MisconfigurationException

from mmlight.errors import UserError, nearest

_MONITOR = re.compile(r"monitor='([^']+)'\)` could not find .*? metrics: \[(.*?)\]")


def find_mistake(error: BaseException) -> UserError | None:
    """Return what the user did wrong, where that is what an error is about."""
    # The parser wraps what a class raises while it is built, and names it as the cause.
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return cause
        if isinstance(cause, MisconfigurationException):
            return UserError(_told_by_lightning(" ".join(str(cause).split())))
        cause = cause.__cause__
    return None


def _told_by_lightning(said: str) -> str:
    if monitor := _MONITOR.search(said):
        metrics = re.findall(r"'([^']+)'", monitor[2])
        return (
            f"checkpoint.monitor: there is no metric '{monitor[1]}'{nearest(monitor[1], metrics)}"
        )
    return said


def first_sentence(error: Exception) -> str:
    """Return what an error says, up to its first full stop."""
    return " ".join(str(error).split()).split(". ")[0]
