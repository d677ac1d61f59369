"""Checkpoints in parts: a folder that the ranks of a sharded run wrote together.

Tensors are in the files of `torch.distributed.checkpoint`, everything else in `meta.pt`; the
checksums of all files in `checksums.json`. Optimiser states bear the names of parameters, not their
numbers.
"""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

from mmlight.saved.checksums import folder_damage
from mmlight.saved.shard_reader import ShardReader, WholePlanner

META, METADATA = "meta.pt", ".metadata"
# The entries of a checkpoint that hold tensors of the model's size.
STATE, OPTIMIZERS, AVERAGE = "state_dict", "optimizer_states", "ema"


def is_sharded(path: Path) -> bool:
    """Return whether `path` is a whole checkpoint in parts."""
    return (path / METADATA).is_file() and (path / META).is_file()


def read_meta(path: Path) -> dict[str, Any]:
    """Return everything but the tensors."""
    meta: dict[str, Any] = torch.load(path / META, map_location="cpu", weights_only=True)
    return meta


def find_damage(path: Path) -> str | None:
    """Return what is wrong with a checkpoint in parts, or None.

    Its files are compared with their checksums, and where an earlier version wrote none, their
    sizes with what the ranks wrote.
    """
    if not is_sharded(path):
        return "is not whole"
    if problem := folder_damage(path, names=(META, METADATA)):
        return problem
    try:
        read_meta(path)
        parts = ShardReader(path).read_metadata().storage_data or {}
    except UnpicklingError as error:
        return f"holds more than tensors and plain values ({error}); nothing of it was run"
    except Exception as error:  # torch raises several kinds for a damaged file
        said = str(error).split("\n")[0]
        return f"cannot be read ({said})"
    if problem := folder_damage(path, names={part.relative_path for part in parts.values()}):
        return problem
    for part in parts.values():
        file = path / part.relative_path
        if not file.is_file() or file.stat().st_size < part.offset + part.length:
            return f"{part.relative_path} is cut short"
    return None


def read_shards(path: Path) -> dict[str, Any]:
    """Return the whole checkpoint on one process, as a run that is not sharded writes it."""
    found: dict[str, Any] = {}
    reader = ShardReader(path)
    reader.read_metadata()  # says what is wrong; torch would say that there is none
    try:
        _load_state_dict(found, storage_reader=reader, planner=WholePlanner(), no_dist=True)
    except CheckpointException as error:  # no Exception, so nobody expects it
        raise next(iter(error.failures.values()))[0] from error
    meta = read_meta(path)
    checkpoint = {**meta, STATE: found[STATE]}
    if OPTIMIZERS in meta:
        states = found.get(OPTIMIZERS, {})
        checkpoint[OPTIMIZERS] = [
            by_number(states.get(str(number), {}), groups)
            for number, groups in enumerate(meta[OPTIMIZERS])
        ]
    if AVERAGE in meta:
        checkpoint[AVERAGE] = {"weights": {}, "average": {}, **found[AVERAGE], **meta[AVERAGE]}
    return checkpoint


def by_number(states: dict[str, Any], groups: list[dict[str, Any]]) -> dict[str, Any]:
    """Return an optimiser's state dict as it numbers parameters, from states by their names.

    Args:
        states: by name of parameter.
        groups: the optimiser's groups; ``params`` lists names.
    """
    names = [name for group in groups for name in group["params"]]
    number = {name: i for i, name in enumerate(names)}
    return {
        "state": {number[name]: state for name, state in states.items()},
        "param_groups": [g | {"params": [number[n] for n in g["params"]]} for g in groups],
    }


def by_name(state: dict[str, Any], groups: list[dict[str, Any]]) -> dict[str, Any]:
    """Return an optimiser's states by the names of parameters; the inverse of `by_number`.

    Args:
        state: the optimiser's own state dict.
        groups: the groups of the same optimiser, with names.
    """
    names = [name for group in groups for name in group["params"]]
    own = state["param_groups"]
    return {
        "state": {names[i]: value for i, value in state["state"].items()},
        "param_groups": [g | {"params": [names[i] for i in g["params"]]} for g in own],
    }
