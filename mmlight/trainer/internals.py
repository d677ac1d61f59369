"""What torch, and transformers, have under private names only and rooms of other floors need.

`tests/trainer/test_private_names.py` lists all of them, and those of Lightning that this room uses.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops.scan import scan as _scan
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._foreach_utils import _get_fused_kernels_supported_devices
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

__all__ = [
    "AnyBatchNorm",
    "DataDependentOutputException",
    "EmptyLoadPlanner",
    "FakeTensor",
    "FakeTensorMode",
    "OpOverload",
    "TorchDispatchMode",
    "end_workers",
    "flash_attention_on_cpu",
    "has_fused_kernel",
    "init_weights",
    "is_traceable_wrapper_subclass",
    "load_tensors",
    "operator_of",
    "scan",
    "storage_key",
    "tree_leaves",
]

AnyBatchNorm = _BatchNorm
EmptyLoadPlanner = _EmptyStateDictLoadPlanner


def load_tensors(found: dict[str, Any], *, reader: Any, planner: Any) -> None:
    """Fill a dict with what a checkpoint in parts holds, on one process.

    The public `load` passes over what the dict does not name.
    """
    _load_state_dict(found, storage_reader=reader, planner=planner, no_dist=True)


def scan(step: Callable[..., Any], start: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the last state and all outputs of a loop over the first dimension."""
    last, outputs = _scan(step, start, inputs, dim=0)
    return last, outputs


def flash_attention_on_cpu() -> tuple[Any, Any]:
    """Return the operators of attention on a CPU, forward and backward."""
    aten = torch.ops.aten
    return (
        aten._scaled_dot_product_flash_attention_for_cpu,
        aten._scaled_dot_product_flash_attention_for_cpu_backward,
    )


def has_fused_kernel(parameter: Tensor) -> bool:
    """Return whether torch has a fused optimiser for a parameter where it lies."""
    devices = _get_fused_kernels_supported_devices()
    return parameter.is_floating_point() and parameter.device.type in devices


def init_weights(model: Any, part: torch.nn.Module) -> None:
    """Start one layer as its model of transformers does, which starts only a whole model openly."""
    model._init_weights(part)


def operator_of(overload: OpOverload) -> Any:
    """Return the operator that an overload belongs to."""
    return overload._overloadpacket


def storage_key(storage: torch.UntypedStorage) -> int:
    """Return what tells a storage from all that live with it."""
    key: int = storage._cdata
    return key


def end_workers(loader: DataLoader[Any]) -> None:
    """End the worker processes of a loader; its next iteration starts new ones.

    Left to the garbage collector, which finalizes their queue before the iterator that owns it,
    each worker would take 5 seconds. Lightning does the same for what is a DataLoader.
    """
    if isinstance(loader._iterator, _MultiProcessingDataLoaderIter):
        loader._iterator._shutdown_workers()
    loader._iterator = None
