"""Configurations made of a sweep: of each run, from one that was resolved once, and for W&B."""

import hashlib
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from mmlight import compose, yaml_text
from mmlight.errors import UserError
from mmlight.files import write_text
from mmlight.runs.plan.sweep import Choices, Parameter, Sweep

_MISSING = object()


def place(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a resolved configuration with other values by full key, where no more changes.

    Returns:
        The configuration; None where a value may be a class, or is of another kind than the one
        there: then the parser has to read it.
    """
    placed = deepcopy(dict(config))
    for key, value in values.items():
        *above, last = key.split(".")
        where: Any = placed
        for part in above:
            where = where.get(part) if isinstance(where, dict) else None
        old = where.get(last, _MISSING) if isinstance(where, dict) else _MISSING
        new = _fitting(old, value)
        if new is _MISSING or last == "class_path":
            return None
        where[last] = new
    return placed


def _fitting(old: Any, new: Any) -> Any:
    """Return a value as it stands in the place of another one; `_MISSING` where that is unclear."""
    if isinstance(old, bool) or isinstance(new, bool):
        return new if isinstance(old, bool) and isinstance(new, bool) else _MISSING
    if isinstance(old, float) and isinstance(new, int | float):
        return float(new)
    same = type(old) is type(new) and isinstance(new, int | str)
    return new if same else _MISSING


def freeze(experiment: Path, folder: Path) -> Path:
    """Copy an experiment with all that it extends; return the copy, which nothing changes.

    It lies below `folder` in one that is named after its content.
    """
    layers = compose.expand(experiment)
    texts = [yaml_text.dump_layer(layer.values) for layer in layers]
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:8]
    names = [f"{i:02d}-{layer.path.name}" for i, layer in enumerate(layers)]
    copies = folder / f"experiment-{digest}"
    for name, text in zip(names, texts, strict=True):
        write_text(copies / name, text)
    path = copies / f"{experiment.stem}.yaml"
    write_text(path, yaml_text.dump({compose.EXTENDS: names}))
    return path


def wandb_config(sweep: Sweep, *, name: str, root: str) -> dict[str, Any]:
    """Return what ``wandb sweep`` takes; each of its agents' runs is a normal run.

    `searcher: optuna` becomes W&B's own Bayesian search, `prune` its Hyperband; the sweep's name
    becomes that of its runs.

    Raises:
        UserError: a setting that W&B's sweeps don't have.
    """
    if len(sweep.seeds) > 1:
        raise UserError(
            "sweep seeds: W&B's sweeps have no mean over seeds; give one seed, or sweep without "
            "--wandb"
        )
    if sweep.value == "best":
        raise UserError(
            "sweep value: W&B's sweeps compare the value that a run ends with; leave `value` out, "
            "or sweep without --wandb"
        )
    seeds = [
        argument
        for seed in sweep.seeds
        for argument in (f"--seed_everything={seed}", f"--data.init_args.seed={seed}")
    ]
    config: dict[str, Any] = {
        "name": name,
        "program": "mmlight",
        "method": "bayes" if sweep.searcher == "optuna" else sweep.searcher,
        "metric": {
            "name": sweep.metric,
            "goal": "maximize" if sweep.direction == "max" else "minimize",
        },
        "parameters": {key: _described(key, p) for key, p in sweep.parameters.items()},
        "command": [
            *("${env}", "${program}", "fit", "-c", str(sweep.experiment)),
            *(f"--run.root={root}", f"--run.name={name}", "--run.wandb=online", *seeds),
            "${args}",
        ],
    }
    if sweep.trials is not None:
        config["run_cap"] = sweep.trials
    if sweep.prune:
        config["early_terminate"] = {"type": "hyperband", "min_iter": 3}
    return config


def _described(key: str, parameter: Parameter) -> dict[str, Any]:
    if isinstance(parameter, Choices):
        for value in parameter.values:
            if not isinstance(value, bool | int | float | str):
                raise UserError(
                    f"sweep parameters.{key}: W&B's agents pass {value!r} on in a form that the "
                    "command line does not read; use plain numbers, texts, true or false"
                )
        return {"values": list(parameter.values)}
    if parameter.scale == "int":
        return {"min": int(parameter.low), "max": int(parameter.high)}
    names = {"uniform": "uniform", "log_uniform": "log_uniform_values"}
    return {"distribution": names[parameter.scale], "min": parameter.low, "max": parameter.high}
