"""Which runs there are: filtered by name, state, settings and scores, quickly for thousands."""

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

from mmlight.compose import flatten, load_yaml
from mmlight.errors import UserError, nearest
from mmlight.runs.run.config_text import look_up
from mmlight.runs.run.scan import ScannedRun, run_folders
from mmlight.runs.run.state import jobs_of, state_of
from mmlight.runs.slurm.client import QueuedJob
from mmlight.scores import main_metric, value_of

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    **{"<=": operator.le, ">=": operator.ge, "!=": operator.ne},
    **{"=": operator.eq, "<": operator.lt, ">": operator.gt},
}
# Whose keys a misspelled one is compared with: YAML is slow to parse.
_MOST_PARSED = 20
_CONDITION = re.compile(r"([^<>=!]+)(<=|>=|!=|=|<|>)(.*)")


@dataclass(frozen=True)
class ListedRun:
    """A run with its state.

    Attributes:
        scanned: its folder.
        queue: SLURM's jobs by id (`client.queue`); None where SLURM is not on this machine.
    """

    scanned: ScannedRun
    queue: Mapping[str, QueuedJob] | None = None

    @property
    def label(self) -> str:
        """What people call it: ``NAME/ID``."""
        return self.scanned.label

    @cached_property
    def state(self) -> str:
        """In a word."""
        return state_of(self.scanned, self.queue).word

    @cached_property
    def final(self) -> dict[str, float]:
        """The last value of each metric; of a run that still goes on, as of now."""
        later = {} if self.scanned.is_summed_up else self.scanned.last_metrics()
        return self.scanned.final | later

    def setting(self, key: str) -> Any:
        """Return a value of its configuration; None where there is none.

        Args:
            key: see `mmlight.runs.run.config_text.look_up`.
        """
        return look_up(self._config, key)

    @cached_property
    def _config(self) -> str:
        return self.scanned.config_text()

    @property
    def main_metric(self) -> str | None:
        """The score that a run of its kind is known by."""
        return main_metric(self.final, monitor=self.scanned.monitor)

    def value(self, metric: str) -> float | None:
        """Return the last value of a metric; None where it has none.

        Args:
            metric: its name; see `mmlight.scores.parts`.
        """
        return value_of(metric, self.final)


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

    def holds(self, run: ListedRun) -> bool:
        """Return whether a run is meant; one that lacks the key is not, but for ``!=``."""
        found = run.value(self.key) if "/" in self.key else run.setting(self.key)
        if found is None and self.value is not None:
            return self.sign == "!="
        if isinstance(found, list) and self.sign == "=" and not isinstance(self.value, list):
            return self.value in found
        try:
            return _OPERATORS[self.sign](_number(found), _number(self.value))
        except TypeError:
            return False


def list_runs(
    root: str | Path,
    *,
    names: Sequence[str] = (),
    states: Sequence[str] = (),
    conditions: Sequence[Condition] = (),
    missing: Callable[[str], None],
) -> list[ListedRun]:
    """Return the runs that all filters let through, those that were active last at the end.

    Args:
        root: the folder of all runs.
        names: of experiments, or patterns of ``NAME/ID``; none for all.
        states: words that `mmlight ps` shows too; none for all.
        conditions: on settings and metrics.
        missing: is told where SLURM cannot say what becomes of launched runs.

    Raises:
        UserError: a condition is on what no run has.
    """
    scanned = (ScannedRun(path) for path in run_folders(root) if _is_named(path, names))
    runs = [ListedRun(run) for run in scanned]
    found = [run for run in runs if all(c.holds(run) for c in conditions)]
    # A condition that everything fails, or passes, may be on a misspelled key.
    _check_keys(runs, [c for c in conditions if not found or c.sign == "!="])
    # Of runs that no other filter leaves out; their states are found when they are asked for.
    given = [run.scanned.submission for run in found if run.scanned.submission]
    queue = jobs_of(given, missing=missing)
    kept = [replace(run, queue=queue) for run in found]
    if states:
        kept = [run for run in kept if run.state in states]
    return sorted(kept, key=lambda run: run.scanned.touched_at)


def check_key(runs: Sequence[ListedRun], key: str, *, flag: str) -> None:
    """Refuse a key or a metric that none of some runs has: it is most likely misspelled.

    Args:
        runs: the runs; none have nothing to misspell.
        key: a metric, where there is a slash in it; else a key of the configuration.
        flag: what named it, for the message.

    Raises:
        UserError: no run has it; it names the nearest.
    """
    looks_up = ListedRun.value if "/" in key else ListedRun.setting
    if not runs or any(looks_up(run, key) is not None for run in runs):
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


def _check_keys(runs: Sequence[ListedRun], conditions: Sequence[Condition]) -> None:
    for c in conditions:
        check_key(runs, c.key, flag=f"--where {c.key}{c.sign}{c.value}")


def _parsed(run: ListedRun) -> dict[str, Any]:
    try:
        found = load_yaml(run.scanned.config_text(), where=run.label)
    except UserError:
        return {}
    return found if isinstance(found, dict) else {}


def metric_names(runs: Iterable[ListedRun]) -> list[str]:
    """Return all metrics that runs have."""
    return sorted({name for run in runs for name in run.final})


def _is_named(path: Path, names: Sequence[str]) -> bool:
    label = f"{path.parent.name}/{path.name}"
    return not names or any(
        fnmatch(label, name if "/" in name else f"{name}/*") or name in (path.name, label)
        for name in names
    )


def _number(value: Any) -> Any:
    # YAML takes 1e-3 for a text.
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
