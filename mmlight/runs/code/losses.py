"""The losses that a run has logged, and where two runs differ first (no torch)."""

from dataclasses import dataclass
from pathlib import Path

from mmlight.runs.code.recorded import Difference
from mmlight.runs.run.metrics_log import read_rows
from mmlight.scores import is_loss


@dataclass(frozen=True)
class Logged:
    """The training losses of one logged step.

    Attributes:
        step: optimiser steps done.
        values: by name; numbers as they were computed, NaN and infinities as texts. JSON keeps
            every digit, so that equal values here are equal bit for bit.
    """

    step: int
    values: dict[str, float | str]


def read_losses(jsonl: Path) -> list[Logged]:
    """Return the training losses of each logged step that has any, in order."""
    found = []
    for row in read_rows(jsonl):
        values = {n: v for n, v in row.items() if n.startswith("train/") and is_loss(n)}
        if values:
            found.append(Logged(row["step"], values))
    return found


def first_difference(before: list[Logged], now: list[Logged]) -> Difference | None:
    """Return where two runs differ first, as far as both go; None where they are equal."""
    for old, new in zip(before, now, strict=False):
        step = min(old.step, new.step)
        was, is_now = (one.values if one.step == step else {} for one in (old, new))
        for name in [*was, *is_now]:
            if was.get(name) != is_now.get(name):
                shown = (repr(v[name]) if name in v else "not logged" for v in (was, is_now))
                return Difference(f"step {step}: {name}", *shown)
    return None
