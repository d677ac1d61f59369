"""The losses that a run has logged, and where two runs differ first (no torch)."""

from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True)
class LossDifference:
    """The first logged step at which two runs differ.

    Attributes:
        step: optimiser steps done.
        name: the loss.
        before: its value in the recorded run; None where it logged none there.
        now: its value in the other.
    """

    step: int
    name: str
    before: float | str | None
    now: float | str | None


def read_losses(jsonl: Path) -> list[Logged]:
    """Return the training losses of each logged step that has any, in order.

    Args:
        jsonl: a run's `metrics.jsonl`.
    """
    found = []
    for row in read_rows(jsonl):
        values = {n: v for n, v in row.items() if n.startswith("train/") and is_loss(n)}
        if values:
            found.append(Logged(row["step"], values))
    return found


def first_difference(before: list[Logged], now: list[Logged]) -> LossDifference | None:
    """Return where two runs differ first, as far as both go; None where they are equal.

    Args:
        before: the recorded losses.
        now: those of the other run.
    """
    for old, new in zip(before, now, strict=False):
        if old.step != new.step:
            step, name = min((old.step, next(iter(old.values))), (new.step, next(iter(new.values))))
            return LossDifference(
                step,
                name,
                old.values.get(name) if old.step == step else None,
                new.values.get(name) if new.step == step else None,
            )
        for name in dict.fromkeys([*old.values, *new.values]):
            if old.values.get(name) != new.values.get(name):
                return LossDifference(old.step, name, old.values.get(name), new.values.get(name))
    return None
