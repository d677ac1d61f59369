"""Optimisers besides ours: torch's, timm's, or a class of the user's own, by their path."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from mmlight.errors import UserError, nearest

_KEY = "model.optimizer"


def build_other(
    path: str,
    groups: list[dict[str, Any]],
    *,
    lr: float,
    weight_decay: float | None,
    settings: Mapping[str, Any],
) -> torch.optim.Optimizer:
    """Return an optimiser on groups of parameters.

    Args:
        path: dotted path of a class, or of a function that returns an optimiser
            (``timm.optim.create_optimizer_v2``).
        groups: as `mmlight.optim.groups.weight_decay_groups` returns them; their ``lr`` is that
            of each group, and ``weight_decay`` 0 where nothing is decayed.
        lr: peak learning rate.
        weight_decay: of the other groups; None is the class's own default.
        settings: further arguments.

    Raises:
        UserError: there is no such class, it does not take these arguments or groups, or it is no
            optimiser that a training step of ours drives.
    """
    make = _find(path)
    try:
        parameters = inspect.signature(make).parameters
    except ValueError as error:  # of a class written in C
        raise UserError(f"{_KEY}.class_path: {path} is no optimiser of torch") from error
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    names = [n for n, p in parameters.items() if p.kind is not p.VAR_KEYWORD][1:]
    for name in settings:
        if name not in names and not takes_any:
            raise UserError(
                f"{_KEY}.init_args: {path} has no setting '{name}'{nearest(name, names)}; "
                f"it has {', '.join(names)}"
            )
    arguments: dict[str, Any] = {**settings, "lr": lr}
    if "lr" not in names and not takes_any:
        raise UserError(f"{_KEY}: {path} takes no learning rate, so no schedule can drive it")
    decays = "weight_decay" in names
    if weight_decay is not None and decays:
        arguments["weight_decay"] = weight_decay
    elif weight_decay:
        raise UserError(f"{_KEY}.weight_decay: {path} has none; leave it out or set it to 0")
    for group in groups:
        # What is decayed has the class's own default where nothing else was asked for.
        if not decays or (weight_decay is None and group["weight_decay"] is None):
            del group["weight_decay"]
    try:
        optimizer = make(groups, **arguments)
    except Exception as error:  # each class checks its arguments in its own way
        raise UserError(f"{_KEY}: {path}: {_said(error, path)}") from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UserError(f"{_KEY}: {path} made no torch optimiser but a {type(optimizer).__name__}")
    if callable(getattr(optimizer, "eval", None)):
        raise UserError(
            f"{_KEY}: {path} keeps other weights for evaluation (schedule-free), which is not "
            "supported; `ema: {decay: 0.999}` with `schedule: {kind: constant}` averages weights"
        )
    if "muon" in type(optimizer).__name__.lower():
        parameters_of_groups = (p for group in optimizer.param_groups for p in group["params"])
        if any(isinstance(parameter, DTensor) for parameter in parameters_of_groups):
            # Measured on two ranks: after four steps weights differ by 1e-3 at a rate of 1e-3.
            raise UserError(
                f"{_KEY}: {path} needs whole matrices, which trainer.strategy fsdp shards; take ddp"
            )
    return optimizer


def own_settings(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Return the settings of each group, without what a class counts in them (`step`, `d`)."""
    known = {*inspect.signature(type(optimizer)).parameters, "lr", "weight_decay", "name"}
    return [
        {key: value for key, value in group.items() if key in known and key != "params"}
        for group in optimizer.param_groups
    ]


def _find(path: str) -> Callable[..., Any]:
    module_name, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        raise UserError(f"{_KEY}.class_path: {path} cannot be imported: {error}") from error
    found = getattr(module, name, None)
    if not callable(found):
        classes = [n for n, v in vars(module).items() if isinstance(v, type)]
        raise UserError(f"{_KEY}.class_path: {module_name} has no {name}{nearest(name, classes)}")
    return found


def _said(error: Exception, path: str) -> str:
    said = " ".join(str(error).split()) or type(error).__name__
    if path.startswith("torch.optim.Muon") or path.endswith(".muon.Muon"):
        said += "; timm.optim.Muon trains the rest by AdamW"
    return said
