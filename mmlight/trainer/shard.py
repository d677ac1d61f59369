"""Shards a built task with FSDP2, block by block."""

from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.utils import _pytree

from mmlight.encoders.codes import Rebuilt
from mmlight.encoders.encoder import Encoded
from mmlight.trainer.module import TrainedModule

# What tasks call of an encoder besides `forward`.
_METHODS = (
    *("feature_maps", "codes", "vectors", "rebuild", "patches"),
    *("token_logits", "embed", "decode", "logits", "both"),
)


def shard(
    task: TrainedModule,
    *,
    mesh: DeviceMesh,
    bfloat16: bool = False,
    reshard_after_forward: bool = True,
    cpu_offload: bool = False,
) -> list[FSDPModule]:
    """Shard the parts of a task, in place: encoders, projections, heads and objectives.

    Args:
        task: built, with equal weights on every rank.
        mesh: one dimension, all ranks.
        bfloat16: gather parameters in bfloat16, but the objective's; gradients are summed in
            float32. Autocast decides what operations compute in.
        reshard_after_forward: give parameters back between forward and backward.
        cpu_offload: keep parameters, gradients and optimiser states in the host's memory.

    Returns:
        The units, each with those inside it.
    """
    options: dict[str, Any] = {
        "mesh": mesh,
        "reshard_after_forward": reshard_after_forward,
        "offload_policy": CPUOffloadPolicy() if cpu_offload else OffloadPolicy(),
    }
    # Inputs keep their dtype: waveforms are not to be rounded.
    exact = MixedPrecisionPolicy(cast_forward_inputs=False)
    policy = exact
    if bfloat16:
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
    units: list[FSDPModule] = []
    for kind in (Encoded, Rebuilt):  # which not only `forward` returns
        make_tree_node(kind)

    def add(module: nn.Module, policy: MixedPrecisionPolicy) -> None:
        if any(True for _ in module.parameters()):
            module.register_forward_hook(_make_tree_nodes)  # before fully_shard's own
            units.append(fully_shard(module, mp_policy=policy, **options))

    for part in task.sharded_parts():
        own = exact if part.is_exact else policy
        for block in part.blocks:
            fully_shard(block, mp_policy=own, **options)
        add(part.module, own)
        for name in _METHODS:
            if hasattr(type(part.module), name):  # not a layer of this name
                register_fsdp_forward_method(part.module, name)
    return units


def _make_tree_nodes(module: nn.Module, inputs: Any, output: Any) -> None:
    """Let FSDP see the tensors in what a module returns: it waits for their gradients."""
    if isinstance(output, list | tuple):
        for item in output:
            _make_tree_nodes(module, inputs, item)
    elif isinstance(output, dict):
        _make_tree_nodes(module, inputs, list(output.values()))
    elif is_dataclass(output) and not isinstance(output, type):
        make_tree_node(type(output))
        _make_tree_nodes(module, inputs, [getattr(output, f.name) for f in fields(output)])


def make_tree_node(kind: type) -> None:
    """Tell torch that a dataclass holds tensors, once."""
    if kind not in _pytree.SUPPORTED_NODES:
        _pytree.register_dataclass(kind)
