"""Parameter groups: what is decayed, and at which share of the learning rate it moves."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import nn

from mmlight.errors import UserError

NoDecay = Literal["vectors_and_listed", "vectors"]


def weight_decay_groups(
    module: nn.Module,
    *,
    weight_decay: float | None,
    no_decay: Iterable[str] = (),
    rule: NoDecay = "vectors_and_listed",
    lr: float | None = None,
    lr_scales: Mapping[str, float] | None = None,
    embeddings_apart: bool = False,
) -> list[dict[str, Any]]:
    """Sort the trainable parameters of `module` into groups for an optimiser.

    Not decayed are vectors and scalars (biases, norms, temperatures) and what `no_decay` names:
    the rule of open_clip's main branch. By the rule ``vectors``, that of open_clip 3.3.0, nothing
    else is left out. Frozen parameters are left out; a parameter shared between
    modules is taken once, under its first name, and not decayed if any of its names says so.

    Groups and the parameters in them stand in the order of `module.named_parameters`, so that a
    checkpoint of the optimiser fits again.

    Args:
        module: whose parameters to train.
        weight_decay: for the decayed ones (None leaves it to the optimiser); the others get 0.
        no_decay: names as in `named_parameters`, such as an encoder's `no_weight_decay` under its
            prefix; names that do not exist are harmless.
        rule: ``vectors_and_listed``, or ``vectors``, which of `no_decay` leaves out only what is a
            vector by its numbers, such as a class token of shape (1, 1, D).
        lr: learning rate to write into the groups; None leaves it to the optimiser, which is
            possible only without `lr_scales`.
        lr_scales: factors of the learning rate by name, above 0. Parameters without one have 1.
        embeddings_apart: give the tables of `torch.nn.Embedding` groups of their own.

    Returns:
        Dicts with ``params``, ``weight_decay``, ``name`` and, if given, ``lr``; with
        `embeddings_apart` also ``embeddings``, bool.

    Raises:
        UserError: nothing is trainable.
    """
    scales = lr_scales or {}
    assert lr is not None or not scales, "lr_scales need lr"
    names: dict[int, list[str]] = {}
    parameters: dict[int, nn.Parameter] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if parameter.requires_grad:
            names.setdefault(id(parameter), []).append(name)
            parameters[id(parameter)] = parameter
    if not parameters:
        raise UserError("the model has no trainable parameter: every one of them is frozen")

    excluded = set(no_decay)
    tables = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    groups: dict[tuple[bool, float, bool], dict[str, Any]] = {}
    for key, parameter in parameters.items():
        factor = scales.get(names[key][0], 1.0)
        listed = bool(excluded.intersection(names[key]))
        if rule == "vectors":
            listed = listed and _is_vector(parameter)
        decayed = parameter.ndim > 1 and not listed
        apart = embeddings_apart and key in tables
        if (decayed, factor, apart) not in groups:
            group: dict[str, Any] = {
                "params": [],
                "weight_decay": weight_decay if decayed else 0.0,
                "name": ("decay" if decayed else "no_decay")
                + ("_embeddings" if apart else "")
                + (f"_lr_x{factor:g}" if factor != 1.0 else ""),
            }
            if embeddings_apart:
                group["embeddings"] = apart
            if lr is not None:
                group["lr"] = lr * factor
            groups[decayed, factor, apart] = group
        groups[decayed, factor, apart]["params"].append(parameter)
    return list(groups.values())


def _is_vector(parameter: torch.Tensor) -> bool:
    return parameter.numel() == max(parameter.shape, default=1)
