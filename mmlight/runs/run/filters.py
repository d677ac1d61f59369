"""Filters of runs by their settings and scores, quick for thousands."""

import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mmlight.compose import flatten, load_yaml
from mmlight.errors import UserError, nearest
from mmlight.runs.run.folder import Run

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    **{"<=": operator.le, ">=": operator.ge, "!=": operator.ne},
    **{"=": operator.eq, "<": operator.lt, ">": operator.gt},
}
# Whose keys a misspelled one is compared with: YAML is slow to parse.
_MOST_PARSED = 20
_CONDITION = re.compile(r"([^<>=!]+)(<=|>=|!=|=|<|>)(.*)")


@dataclass(frozen=True)
class Condition:
    """A comparison such as ``optimizer.lr<=0.001`` or ``val/loss<0.5``.

    Attributes:
        key: a metric, where there is a slash in it; else a key of the configuration.
        sign: how it is compared.
        value: with what.
    """

    key: str
    sign: str
    value: Any

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """Read what a user typed.

        Raises:
            UserError: it is no comparison.
        """
        match = _CONDITION.fullmatch(text)
        if match is None:
            raise UserError(
                f"--where {text}: write KEY=VALUE, or with !=, <, <=, >, >=; a KEY with a slash is "
                "a metric"
            )
        return cls(match[1].strip(), match[2], load_yaml(match[3], where=f"--where {text}"))

    def holds(self, run: Run) -> bool:
        """Return whether a run fulfils it; one that lacks the key does so for ``!=`` alone."""
        found = _value(run, self.key)
        if found is None and self.value is not None:
            return self.sign == "!="
        if isinstance(found, list) and self.sign == "=" and not isinstance(self.value, list):
            return self.value in found
        try:
            return _OPERATORS[self.sign](_number(found), _number(self.value))
        except TypeError:
            return False


def filtered(runs: Sequence[Run], conditions: Sequence[Condition]) -> list[Run]:
    """Return the runs that fulfil all conditions.

    Raises:
        UserError: a condition is on what no run has.
    """
    found = [run for run in runs if all(c.holds(run) for c in conditions)]
    for c in conditions:
        # One that everything fails, or passes, may be on a misspelled key.
        if not found or c.sign == "!=":
            check_key(runs, c.key, flag=f"--where {c.key}{c.sign}{c.value}")
    return found


def check_key(runs: Sequence[Run], key: str, *, flag: str) -> None:
    """Refuse a key or a metric that none of some runs has: it is most likely misspelled.

    Args:
        runs: the runs; none have nothing to misspell.
        key: a metric, where there is a slash in it; else a key of the configuration.
        flag: what named it, for the message.

    Raises:
        UserError: no run has it; it names the nearest.
    """
    if not runs or any(_value(run, key) is not None for run in runs):
        return
    if "/" in key:
        names = set(metric_names(runs))
    else:
        found = [flatten(_parsed(run)) for run in runs[-_MOST_PARSED:]]
        whole = {name.replace("init_args.", "") for one in found for name in one}
        if any(f".{name}".endswith(f".{key}") or f".{key}." in f".{name}" for name in whole):
            return  # null, or settings of its own
        # People write the end of a key, of as many parts as tell it apart.
        names = {".".join(name.split(".")[-key.count(".") - 1 :]) for name in whole}
    what = "metric" if "/" in key else "setting"
    raise UserError(f"{flag}: no run has a {what} '{key}'{nearest(key, names)}")


def metric_names(runs: Iterable[Run]) -> list[str]:
    """Return all metrics that runs have."""
    return sorted({name for run in runs for name in run.final})


def _value(run: Run, key: str) -> Any:
    return run.value(key) if "/" in key else run.setting(key)


def _parsed(run: Run) -> dict[str, Any]:
    try:
        found = load_yaml(run.config_text, where=run.label)
    except UserError:
        return {}
    return found if isinstance(found, dict) else {}


def _number(value: Any) -> Any:
    # YAML takes 1e-3 for a text.
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
