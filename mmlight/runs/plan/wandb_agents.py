"""The same sweep for W&B's own server and agents (no torch)."""

from typing import Any

from mmlight.errors import UserError
from mmlight.runs.plan.sweep import Choices, Parameter, Sweep

_METHODS = {"grid": "grid", "random": "random", "optuna": "bayes"}


def wandb_config(sweep: Sweep, *, name: str, root: str) -> dict[str, Any]:
    """Return what ``wandb sweep`` takes; each of its agents' runs is a normal run.

    `searcher: optuna` becomes W&B's own Bayesian search, `prune` its Hyperband.

    Args:
        sweep: the settings.
        name: the sweep's name, which becomes that of its runs.
        root: the folder of all runs.

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
        "method": _METHODS[sweep.searcher],
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
