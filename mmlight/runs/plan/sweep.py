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
        many = [k for k, p in self.parameters.items() if isinstance(p, Range) or len(p.values) > 1]
        return many or list(self.parameters)

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
        if self.searcher == "grid":  # the last parameter varies fastest
            values = [_listed(parameter) for parameter in self.parameters.values()]
            return [
                dict(zip(self.parameters, combination, strict=True))
                for combination in itertools.product(*values)
            ]
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
    try:
        sweep = _sweep(given, folder=path.parent)
        _check(sweep)
    except UserError as error:
        raise UserError(f"sweep file {path}: {error}") from None
    return sweep


def _sweep(given: Mapping[str, Any], *, folder: Path) -> Sweep:
    for key in given:
        if key not in _KEYS:
            raise UserError(f"unknown key `{key}`{nearest(str(key), _KEYS)}")
    for key in ("experiment", "parameters", "metric"):
        if not given.get(key):
            raise UserError(f"`{key}` is not set, but required")
    experiment = Path(os.path.normpath(folder / str(given["experiment"])))
    if not experiment.is_file():
        raise UserError(f"experiment: there is no file {experiment}")
    metric = str(given["metric"])
    if not isinstance(given["parameters"], dict):
        raise UserError("parameters: must be keys with values, such as model.init_args.x: [1, 2]")
    seeds = [] if given.get("seeds") is None else given["seeds"]
    if not isinstance(seeds, list):
        raise UserError(f"seeds: {seeds!r} must be a list of whole numbers, such as [0, 1, 2]")
    way = given.get("direction") or known_direction(metric)
    if way is None:
        hint = misspelled(metric)
        raise UserError(f"direction: set it to max or min; the name '{metric}'{hint} does not tell")
    others = ("searcher", "trials", "value", "seed", "prune")
    return Sweep(
        experiment=experiment,
        parameters={key: _parameter(key, v) for key, v in given["parameters"].items()},
        metric=metric,
        direction=way,
        seeds=tuple(seeds),
        given={key: given[key] for key in _KEYS if key in given},
        **{key: given[key] for key in others if key in given},
    )


def _check(sweep: Sweep) -> None:
    for key, allowed in (
        ("searcher", get_args(Searcher)),
        ("direction", ("min", "max")),
        ("value", ("final", "best")),
        ("prune", (True, False)),
    ):
        if getattr(sweep, key) not in allowed:
            options = ", ".join(map(str, allowed))
            raise UserError(f"{key}: {getattr(sweep, key)!r} must be one of {options}")
    if not isinstance(sweep.seed, int) or sweep.seed < 0:
        raise UserError(f"seed: {sweep.seed!r} must be a whole number of 0 or more")
    if not all(type(seed) is int for seed in sweep.seeds):
        raise UserError(f"seeds: {list(sweep.seeds)} must be whole numbers, such as [0, 1, 2]")
    if len(set(sweep.seeds)) < len(sweep.seeds):
        raise UserError(f"seeds: {list(sweep.seeds)} names one twice")
    if sweep.searcher == "grid":
        for key, p in sweep.parameters.items():
            if isinstance(p, Range) and p.scale != "int":
                raise UserError(f"parameters.{key}: a grid needs a list of values, or `int`")
        if sweep.trials is not None:
            raise UserError("trials: has no effect on a grid, which tries every combination")
    elif not isinstance(sweep.trials, int) or sweep.trials < 1:
        raise UserError(f"trials: {sweep.trials!r} must be a whole number of 1 or more")
    if sweep.prune and sweep.searcher != "optuna":
        raise UserError("prune: true has an effect only with `searcher: optuna`")
    if sweep.prune and len(sweep.seeds) > 1:
        raise UserError(
            "prune: true needs one seed; a combination is judged by the mean of its seeds"
        )
    if not sweep.metric.startswith(("val/", "test/", "train/")):
        raise UserError(f"metric: '{sweep.metric}' has no stage; write val/{sweep.metric}")


def _parameter(key: Any, value: Any) -> Parameter:
    where = f"parameters.{key}"
    if not isinstance(key, str):
        raise UserError(f"{where}: must be a key of the configuration, such as model.init_args.x")
    if isinstance(value, list):
        if not value:
            raise UserError(f"{where}: has no values")
        return Choices(tuple(value))
    if not isinstance(value, dict) or len(value) != 1 or next(iter(value)) not in _RANGES:
        raise UserError(
            f"{where}: must be a list of values or one of {{uniform: [0, 1]}}, "
            f"{{log_uniform: [1.0e-5, 1.0e-3]}}, {{int: [1, 8]}}, not {value!r}"
        )
    ((scale, bounds),) = value.items()
    try:
        # YAML takes 1e-5, which has no dot, for a text.
        low, high = (float(bound) for bound in bounds)
    except (TypeError, ValueError):
        raise UserError(f"{where}.{scale}: {bounds!r} must be two numbers") from None
    if not low < high:
        raise UserError(f"{where}.{scale}: {bounds!r}: the first must be below the second")
    if scale == "log_uniform" and low <= 0:
        raise UserError(f"{where}.log_uniform: {bounds!r}: both must be above 0")
    if scale == "int" and not (low.is_integer() and high.is_integer()):
        raise UserError(f"{where}.int: {bounds!r} must be whole numbers")
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
