"""Writes and reads the checkpoints of a sharded model; see `mmlight.saved.parts` for the format.

Every function here is called by all ranks.
"""

import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from mmlight import comm
from mmlight.errors import UserError, naming
from mmlight.saved.checkpoint import check_same_model, check_whole
from mmlight.saved.checksums import file_checksum, write_list
from mmlight.saved.locate import META, METADATA
from mmlight.saved.parts import (
    AVERAGE,
    OPTIMIZERS,
    STATE,
    GivenPlanner,
    ShardReader,
    by_name,
    by_number,
    read_meta,
)


def save_sharded(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a folder; it appears under its name when it is whole.

    Args:
        checkpoint: what Lightning collected; tensors of the model's size are this rank's parts.
        path: where.
    """
    part = path.with_name(comm.broadcast_string(f".{path.name}.{uuid.uuid4().hex[:8]}.part"))
    tensors: dict[str, Any] = {STATE: checkpoint[STATE]}
    meta = {key: value for key, value in checkpoint.items() if key != STATE}
    if OPTIMIZERS in checkpoint:
        states = checkpoint[OPTIMIZERS]
        tensors[OPTIMIZERS] = {str(i): state["state"] for i, state in enumerate(states)}
        meta[OPTIMIZERS] = [state["param_groups"] for state in states]
    if AVERAGE in checkpoint:
        average = checkpoint[AVERAGE]
        tensors[AVERAGE] = {key: average[key] for key in ("weights", "average")}
        meta[AVERAGE] = {k: v for k, v in average.items() if k not in tensors[AVERAGE]}
    try:
        save(tensors, checkpoint_id=part)
        # Each rank's own files, so that no byte crosses a network for its checksum.
        own = {f.name: file_checksum(f) for f in part.glob(f"__{comm.rank()}_*")}
        checksums = {name: sum_ for each in comm.gather_objects(own) for name, sum_ in each.items()}
        if comm.rank() == 0:
            with naming(path), (part / META).open("wb") as file:
                torch.save(meta, file)
                file.flush()
                os.fsync(file.fileno())
            for name in (META, METADATA):
                checksums[name] = file_checksum(part / name)
            write_list(part, checksums)
            if path.is_dir():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)
            part.rename(path)
    except CheckpointException as error:  # no Exception, so nobody expects it
        raise next(iter(error.failures.values()))[0] from error
    finally:
        if comm.rank() == 0:
            shutil.rmtree(part, ignore_errors=True)
    comm.barrier()


def gather_whole(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return the checkpoint as a run that is not sharded writes it, with whole tensors on the CPU.

    Only rank 0 gets the tensors.
    """
    whole = _gathered(checkpoint)
    assert isinstance(whole, dict)
    if OPTIMIZERS in whole and comm.rank() == 0:
        whole[OPTIMIZERS] = [by_number(s["state"], s["param_groups"]) for s in whole[OPTIMIZERS]]
    return whole


def _gathered(value: Any) -> Any:
    if isinstance(value, DTensor):
        if value.device.type == "cpu" and value.device_mesh.device_type != "cpu":
            value = value.to(value.device_mesh.device_type)  # what is offloaded cannot be sent
        full = value.full_tensor()
        return full.cpu() if comm.rank() == 0 else None
    if isinstance(value, dict):
        return {key: _gathered(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_gathered(item) for item in value)
    return value


def load_sharded(path: Path, model: nn.Module, optimizers: Sequence[Optimizer]) -> dict[str, Any]:
    """Load a folder, however many ranks wrote it; return what Lightning restores the rest from.

    Raises:
        UserError: the checkpoint is damaged, or of another model.
    """
    check_whole(path)
    meta = read_meta(path)
    stored = ShardReader(path).read_metadata().state_dict_metadata
    state: dict[str, Any] = get_model_state_dict(model)
    _check_model(stored, state)
    _load({STATE: state}, path)
    set_model_state_dict(model, state)
    for i, optimizer in enumerate(optimizers):
        own: dict[str, Any] = get_optimizer_state_dict(model, optimizer)
        prefix = f"{OPTIMIZERS}.{i}."
        states = {
            name: {key: v for key, v in values.items() if f"{prefix}{name}.{key}" in stored}
            for name, values in own["state"].items()
        }
        states = {name: values for name, values in states.items() if values}
        _load({OPTIMIZERS: {str(i): states}}, path)
        given = {"state": states, "param_groups": meta[OPTIMIZERS][i]}
        set_optimizer_state_dict(model, optimizer, given)
    checkpoint = {**meta, STATE: state}
    if AVERAGE in meta:
        average: dict[str, dict[str, Tensor]] = {"weights": {}, "average": {}}
        for kind, tensors in average.items():
            prefix = f"{AVERAGE}.{kind}."
            for key, about in stored.items():
                if key.startswith(prefix) and isinstance(about, TensorStorageMetadata):
                    name = key.removeprefix(prefix)
                    like = state[name].detach()
                    tensors[name] = torch.empty_like(like, dtype=about.properties.dtype)
        _load({AVERAGE: average}, path)
        checkpoint[AVERAGE] = {**average, **meta[AVERAGE]}
    return checkpoint


def load_whole(
    checkpoint: dict[str, Any], model: nn.Module, optimizers: Sequence[Optimizer]
) -> dict[str, Any]:
    """Load what a run that is not sharded wrote; each rank takes its parts.

    Raises:
        UserError: the checkpoint is of another model, or its optimiser had other groups.
    """
    own: dict[str, Any] = get_model_state_dict(model)
    check_same_model(checkpoint[STATE], own)
    options = StateDictOptions(full_state_dict=True)
    set_model_state_dict(model, checkpoint[STATE], options=options)
    saved = checkpoint.get(OPTIMIZERS, [])
    for optimizer, state in zip(optimizers, saved, strict=False):
        named: dict[str, Any] = get_optimizer_state_dict(model, optimizer)
        groups = named["param_groups"]
        if [len(g["params"]) for g in groups] != [len(g["params"]) for g in state["param_groups"]]:
            raise UserError("the checkpoint's optimiser has other parameter groups")
        set_optimizer_state_dict(model, optimizer, by_name(state, groups), options=options)
    if AVERAGE in checkpoint:
        average = dict(checkpoint[AVERAGE])
        for kind in ("weights", "average"):
            average[kind] = {name: part_of(t, own[name]) for name, t in average[kind].items()}
        checkpoint = {**checkpoint, AVERAGE: average}
    return checkpoint


def part_of(whole: Tensor, like: Tensor) -> Tensor:
    """Return this rank's part of a whole tensor, sharded as `like` (rows, in the ranks' order)."""
    if not isinstance(like, DTensor):
        return whole.to(like.device)
    local = like.to_local()
    each = -(-len(whole) // like.device_mesh.size())
    start = min(like.device_mesh.get_local_rank() * each, len(whole))
    rows = whole[start : start + len(local)].to(local.device).contiguous()
    return DTensor.from_local(
        rows,
        like.device_mesh,
        like.placements,
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )


def _load(tensors: dict[str, Any], path: Path) -> None:
    load(tensors, storage_reader=ShardReader(path), planner=GivenPlanner())


def _check_model(stored: dict[str, Any], wanted: dict[str, Tensor]) -> None:
    prefix = f"{STATE}."
    sizes = {
        key.removeprefix(prefix): torch.empty(about.size, device="meta")
        for key, about in stored.items()
        if key.startswith(prefix) and isinstance(about, TensorStorageMetadata)
    }
    check_same_model(sizes, wanted)
