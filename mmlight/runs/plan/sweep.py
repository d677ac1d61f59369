"""What a sweep tries: its file, its parameters, and the runs that follow from them (no torch)."""

import itertools
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from mmlight import compose
from mmlight.errors import UserError, nearest
from mmlight.scores import known_direction, misspelled

Searcher = Literal["grid", "random", "optuna"]
_RANGES = ("uniform", "log_uniform", "int")
_KEYS = (
    *("experiment", "parameters", "searcher", "trials", "metric", "direction", "value"),
    *("seeds", "seed", "prune"),
)


@dataclass(frozen=True)
class Choices:
    """A parameter with given values; each may be anything that YAML can hold."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Range:
    """A parameter with any value from `low` to `high`, both included.

    Attributes:
        low: the least value.
        high: the largest value.
        scale: `uniform`, `log_uniform` (equal ratios are equally likely) or `int`.
    """

    low: float
    high: float
    scale: str

    def at(self, share: float) -> float | int:
        """Return the value below which `share` (in [0, 1)) of the range lies.

        Numbers have four significant digits: what is shown is what was used.
        """
        if self.scale == "int":
            return int(self.low + math.floor(share * (self.high - self.low + 1)))
        if self.scale == "log_uniform":
            return rounded(self.low * (self.high / self.low) ** share)
        return rounded(self.low + share * (self.high - self.low))


Parameter = Choices | Range


@dataclass(frozen=True)
class Sweep:
    """The settings of a sweep.

    Attributes:
        experiment: the experiment file that every run extends.
        parameters: what is varied, by full key of the configuration.
        metric: what is compared, such as `val/accuracy`.
        direction: whether the larger or the smaller value is better.
        searcher: `grid` (every combination), `random`, or `optuna` (its TPE sampler).
        trials: how many combinations are tried; None with `grid`, which tries all.
        value: the `final` value of the metric counts, or the `best` of the run.
        seeds: each combination runs with each of these, and its mean counts; empty leaves the
            experiment's own seed.
        seed: of the search itself.
        prune: stop a run whose metric is below the median of the others' at its step (optuna).
    """

    experiment: Path
    parameters: Mapping[str, Parameter]
    metric: str
    direction: Literal["min", "max"]
    searcher: Searcher = "random"
    trials: int | None = None
    value: Literal["final", "best"] = "final"
    seeds: tuple[int, ...] = ()
    seed: int = 0
    prune: bool = False
    given: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def varied(self) -> list[str]:
        """The keys with more than one value; the others are settings of every run."""
        one = [
            k for k, p in self.parameters.items() if isinstance(p, Choices) and len(p.values) < 2
        ]
        return [key for key in self.parameters if key not in one] or list(self.parameters)

    def grid(self) -> list[dict[str, Any]]:
        """Return every combination; the last parameter varies fastest."""
        values = [_listed(parameter) for parameter in self.parameters.values()]
        return [
            dict(zip(self.parameters, combination, strict=True))
            for combination in itertools.product(*values)
        ]

    def drawn(self, number: int) -> dict[str, Any]:
        """Return the combination of trial `number` of a random search; it needs no other trial."""
        draws = np.random.default_rng([self.seed, number])
        shares = draws.random(len(self.parameters)).tolist()
        return {
            key: _listed(parameter)[int(share * len(parameter.values))]
            if isinstance(parameter, Choices)
            else parameter.at(share)
            for (key, parameter), share in zip(self.parameters.items(), shares, strict=True)
        }

    def combinations(self) -> list[dict[str, Any]]:
        """Return what a search by grid or by chance tries, which is known before it starts."""
        assert self.searcher != "optuna", "it decides trial by trial"
        if self.searcher == "grid":
            return self.grid()
        assert self.trials is not None
        return [self.drawn(number) for number in range(self.trials)]


@dataclass(frozen=True)
class TrialRun:
    """One run: a combination of values, with one seed.

    Attributes:
        number: the combination's number.
        values: by full key.
        seed: the run's seed, None for the experiment's own.
    """

    number: int
    values: Mapping[str, Any]
    seed: int | None = None

    @property
    def id(self) -> str:
        """The id of its run folder."""
        return f"trial-{self.number:03d}" + ("" if self.seed is None else f"-seed{self.seed}")

    @property
    def settings(self) -> dict[str, Any]:
        """What makes this run differ from the experiment, by full key."""
        seeds = {}
        if self.seed is not None:
            # Weights and dropout are drawn from the first, order and crops from the second.
            seeds = {"seed_everything": self.seed, "data.init_args.seed": self.seed}
        return {**self.values, **seeds}

    def overrides(self) -> list[str]:
        """Return the command-line arguments that make this run differ from the experiment."""
        return [f"--{key}={as_argument(value)}" for key, value in self.settings.items()]


def trial_runs(sweep: Sweep, number: int, values: Mapping[str, Any]) -> list[TrialRun]:
    """Return the runs of one combination, one per seed."""
    return [TrialRun(number, values, seed) for seed in sweep.seeds or (None,)]


def load(path: Path) -> Sweep:
    """Read a sweep file.

    Args:
        path: a YAML file; the experiment's path in it is relative to the file itself.

    Raises:
        UserError: a key that is missing, unknown or out of its range.
    """
    given = compose.read(path)

    def refuse(said: str) -> UserError:
        return UserError(f"sweep file {path}: {said}")

    for key in given:
        if key not in _KEYS:
            raise refuse(f"unknown key `{key}`{nearest(str(key), _KEYS)}")
    for key in ("experiment", "parameters", "metric"):
        if not given.get(key):
            raise refuse(f"`{key}` is not set, but required")
    experiment = Path(os.path.normpath(path.parent / str(given["experiment"])))
    if not experiment.is_file():
        raise refuse(f"experiment: there is no file {experiment}")
    metric = str(given["metric"])
    if not isinstance(given["parameters"], dict):
        raise refuse("parameters: must be keys with values, such as model.init_args.x: [1, 2]")
    seeds = [] if given.get("seeds") is None else given["seeds"]
    if not isinstance(seeds, list):
        raise refuse(f"seeds: {seeds!r} must be a list of whole numbers, such as [0, 1, 2]")
    way = given.get("direction") or known_direction(metric)
    if way is None:
        hint = misspelled(metric)
        raise refuse(f"direction: set it to max or min; the name '{metric}'{hint} does not tell")
    sweep = Sweep(
        experiment=experiment,
        parameters={key: _parameter(key, v, refuse) for key, v in given["parameters"].items()},
        metric=metric,
        direction=way,
        searcher=given.get("searcher", "random"),
        trials=given.get("trials"),
        value=given.get("value", "final"),
        seeds=tuple(seeds),
        seed=given.get("seed", 0),
        prune=given.get("prune", False),
        given={key: given[key] for key in _KEYS if key in given},
    )
    for key, allowed in (
        ("searcher", get_args(Searcher)),
        ("direction", ("min", "max")),
        ("value", ("final", "best")),
        ("prune", (True, False)),
    ):
        if getattr(sweep, key) not in allowed:
            said = ", ".join(str(option) for option in allowed)
            raise refuse(f"{key}: {getattr(sweep, key)!r} must be one of {said}")
    _check_numbers(sweep, refuse)
    return sweep


def _check_numbers(sweep: Sweep, refuse: Any) -> None:
    if not isinstance(sweep.seed, int) or sweep.seed < 0:
        raise refuse(f"seed: {sweep.seed!r} must be a whole number of 0 or more")
    if not all(type(seed) is int for seed in sweep.seeds):
        raise refuse(f"seeds: {list(sweep.seeds)} must be whole numbers, such as [0, 1, 2]")
    if len(set(sweep.seeds)) < len(sweep.seeds):
        raise refuse(f"seeds: {list(sweep.seeds)} names one twice")
    if sweep.searcher == "grid":
        ranges = [
            k for k, p in sweep.parameters.items() if isinstance(p, Range) and p.scale != "int"
        ]
        if ranges:
            raise refuse(f"parameters.{ranges[0]}: a grid needs a list of values, or `int`")
        if sweep.trials is not None:
            raise refuse("trials: has no effect on a grid, which tries every combination")
    elif not isinstance(sweep.trials, int) or sweep.trials < 1:
        raise refuse(f"trials: {sweep.trials!r} must be a whole number of 1 or more")
    if sweep.prune and sweep.searcher != "optuna":
        raise refuse("prune: true has an effect only with `searcher: optuna`")
    if sweep.prune and len(sweep.seeds) > 1:
        raise refuse("prune: true needs one seed; a combination is judged by the mean of its seeds")
    if not sweep.metric.startswith(("val/", "test/", "train/")):
        raise refuse(f"metric: '{sweep.metric}' has no stage; write val/{sweep.metric}")


def _parameter(key: Any, value: Any, refuse: Any) -> Parameter:
    where = f"parameters.{key}"
    if not isinstance(key, str):
        raise refuse(f"{where}: must be a key of the configuration, such as model.init_args.x")
    if isinstance(value, list):
        if not value:
            raise refuse(f"{where}: has no values")
        return Choices(tuple(value))
    if not isinstance(value, dict) or len(value) != 1 or next(iter(value)) not in _RANGES:
        raise refuse(
            f"{where}: must be a list of values or one of {{uniform: [0, 1]}}, "
            f"{{log_uniform: [1.0e-5, 1.0e-3]}}, {{int: [1, 8]}}, not {value!r}"
        )
    ((scale, bounds),) = value.items()
    try:
        # YAML takes 1e-5, which has no dot, for a text.
        low, high = (float(bound) for bound in bounds)
    except (TypeError, ValueError):
        raise refuse(f"{where}.{scale}: {bounds!r} must be two numbers") from None
    if not low < high:
        raise refuse(f"{where}.{scale}: {bounds!r}: the first must be below the second")
    if scale == "log_uniform" and low <= 0:
        raise refuse(f"{where}.log_uniform: {bounds!r}: both must be above 0")
    if scale == "int" and not (low.is_integer() and high.is_integer()):
        raise refuse(f"{where}.int: {bounds!r} must be whole numbers")
    return Range(low, high, scale)


def _listed(parameter: Parameter) -> Sequence[Any]:
    if isinstance(parameter, Choices):
        return parameter.values
    return range(int(parameter.low), int(parameter.high) + 1)


def rounded(value: float) -> float:
    """Return a number with four significant digits."""
    return float(f"{value:.4g}")


def as_argument(value: Any) -> str:
    """Return a value as the command line reads it."""
    return value if isinstance(value, str) else json.dumps(value)
