"""Whether a metric is better large or small: one rule for all who choose by it."""

import re
from collections.abc import Iterable
from typing import Any, Literal

from mmlight.errors import UserError, nearest

Direction = Literal["min", "max"]
# Whole words: "loss" is in "glossary", "wer" in "lower", "cer" in "certainty".
_SMALLER = frozenset(("loss", "rank", "error", "perplexity", "wer", "cer", "deletion"))
_LARGER = frozenset(
    ("recall", "accuracy", "precision", "f1", "match", "map", "ap", "ap50", "ap75", "insertion")
)
_UNITS = frozenset(("ms", "s", "mb", "gb", "bytes", "share", "count", "num"))


def known_direction(name: str) -> Direction | None:
    """Return whether a metric is better small or large; None where its name does not say.

    Args:
        name: such as ``val/image_to_text/median_rank``. What stands behind the last slash counts,
            then what stands before: ``train/loss/image-text``.
    """
    for part in reversed(name.split("/")):
        words = set(re.split(r"[_-]", part))
        if words & _UNITS:
            return None
        if "reciprocal" in words:
            return "max"
        if words & _SMALLER:
            return "min"
        if words & _LARGER:
            return "max"
    return None


def misspelled(name: str) -> str:
    """Return a hint at the known word that a metric's name may have been meant to end in."""
    stage, slash, word = name.rpartition("/")
    return nearest(word, sorted(_SMALLER | _LARGER)).replace("'", f"'{stage}{slash}", 1)


def direction(name: str, *, told: Iterable[tuple[Any, Any]] = ()) -> Direction:
    """Return the same for tables and pictures, which show an unknown metric's largest first.

    Args:
        name: the metric.
        told: `checkpoint.monitor` and `checkpoint.monitor_mode` of the runs that are shown.
    """
    if known := known_direction(name):
        return known
    return "min" if (name, "min") in set(told) else "max"


def chosen_direction(name: str, *, given: Any = None, remedy: str) -> Direction:
    """Return the direction by which something is chosen, or stopped.

    Args:
        name: the metric.
        given: what the user says; None leaves it to the name.
        remedy: what would work, such as ``set checkpoint.monitor_mode to max or min``.

    Raises:
        UserError: nobody says it, and the name does not either.
    """
    found: Direction | None = given or known_direction(name)
    if found is None:
        raise UserError(
            f"whether a larger or a smaller '{name}' is better is not known from its name"
            f"{misspelled(name)}; {remedy}"
        )
    return found
