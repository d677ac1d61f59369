"""Counts what a computation does: arithmetic, memory traffic, and the memory it holds at once."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil, prod
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop

from mmlight.trainer.internals import (
    DataDependentOutputException,
    OpOverload,
    TorchDispatchMode,
    flash_attention_on_cpu,
    is_traceable_wrapper_subclass,
    operator_of,
    storage_key,
    tree_leaves,
)

Kind = Literal["matmul", "conv", "norm", "math", "random", "move"]
KINDS: tuple[Kind, ...] = get_args(Kind)
aten = torch.ops.aten
_LANES = 16

# By the name of the packet, without the namespace and a trailing underscore. What is in none of
# the lists moves memory and adds or multiplies on the way.
_CONVS = ("convolution", "convolution_backward", "_slow_conv2d_forward", "conv_depthwise3d")
_NORMS = ("norm", "pool")
_MATHS = (
    "gelu exp log sigmoid silu tanh erf softmax softplus pow rsqrt logsumexp _fft mish "
    "hardswish sin cos ctc gru lstm"
).split()
_RANDOMS = ("bernoulli", "native_dropout", "rand", "normal_", "uniform_", "multinomial")
# They return views or plain numbers, and move nothing.
_FREE = (
    "view _unsafe_view t transpose permute expand slice select split unsqueeze squeeze detach "
    "alias as_strided unbind _local_scalar_dense split_with_sizes chunk diagonal is_same_size "
    "lift_fresh empty new_empty empty_like _reshape_alias real view_as_real empty_strided "
    "sym_size size new_empty_strided unfold set resize _version is_pinned _nested_get_values"
).split()


@dataclass
class Work:
    """What operations of one kind did.

    Attributes:
        flops: of matrix products and convolutions; a multiplication and an addition are two.
        padded_flops: the same as if channels were multiples of 16, in which CPUs compute
            convolutions: a stem with 3 channels takes the time of one with 16.
        num_bytes: read and written.
        num_elements: of all results.
    """

    flops: float = 0.0
    padded_flops: float = 0.0
    num_bytes: float = 0.0
    num_elements: float = 0.0

    def add(self, other: "Work", *, times: float = 1.0) -> None:
        """Add `times` the work of `other`."""
        self.flops += times * other.flops
        self.padded_flops += times * other.padded_flops
        self.num_bytes += times * other.num_bytes
        self.num_elements += times * other.num_elements


@dataclass
class Counted:
    """What a computation did.

    Attributes:
        work: by kind of operation.
        num_calls: operations, views among them.
        held_bytes: tensors that were made in it and are still held.
        peak_bytes: the most that they were at once.
    """

    work: dict[Kind, Work] = field(default_factory=lambda: {kind: Work() for kind in KINDS})
    num_calls: float = 0.0
    held_bytes: float = 0.0
    peak_bytes: float = 0.0

    @property
    def flops(self) -> float:
        """All that was counted as arithmetic."""
        return sum(part.flops for part in self.work.values())


class Tally(TorchDispatchMode):
    """Counts every operation within it, forward and backward; nothing else changes.

    FLOPs are those of `torch.utils.flop_counter`, whose table it reads, with the one entry that the
    table lacks: fused attention on a CPU. Memory is counted by storage, from the operation that
    returns it first until nobody holds it; a kernel's own scratch memory is not seen.

    Attributes:
        counted: so far.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.counted = Counted()
        self._live: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count it."""
        try:
            out = func(*args, **(kwargs or {}))
        except DataDependentOutputException:
            out = _guess(args[0])
        if not isinstance(func, OpOverload) or func.namespace == "prim":
            return out  # an operator over functions, such as flex attention; a question about one
        operator = operator_of(func)
        name = operator.__name__
        self._count(operator, name.removesuffix("_"), args, kwargs or {}, out)
        for leaf in tree_leaves(out):
            wraps: bool = is_traceable_wrapper_subclass(leaf)
            if isinstance(leaf, Tensor) and not wraps:
                self._hold(leaf)
        return out

    def ignore(self, tensors: Any) -> None:
        """Leave out tensors that were there before (parameters, a batch)."""
        for tensor in tensors:
            self._live.setdefault(storage_key(tensor.untyped_storage()), 0)

    def _count(self, packet: Any, name: str, args: Any, kwargs: Any, out: Any) -> None:
        counted = self.counted
        counted.num_calls += 1
        if name in _FREE:
            return
        kind = kind_of(packet, name)
        work = counted.work[kind]
        formula = _FORMULAS.get(packet) or flop_registry.get(packet)
        if formula is not None:
            flops = float(formula(*args, **kwargs, out_val=out))
            work.flops += flops
            work.padded_flops += flops * (_padding(name, args) if kind == "conv" else 1.0)
        outputs = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        work.num_bytes += sum(_touched_bytes(tensor) for tensor in (*inputs, *outputs))
        work.num_elements += sum(tensor.numel() for tensor in outputs)

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage_key(storage)
        if key in self._live:
            return
        size = storage.nbytes()
        self._live[key] = size
        counted = self.counted
        counted.held_bytes += size
        counted.peak_bytes = max(counted.peak_bytes, counted.held_bytes)
        weakref.finalize(storage, self._release, key)

    def _release(self, key: int) -> None:
        self.counted.held_bytes -= self._live.pop(key, 0)


def kind_of(packet: Any, name: str) -> Kind:
    """Return which of the machine's rates an operation runs at."""
    if any(word in name for word in _CONVS):
        return "conv"
    if packet in _FORMULAS or packet in flop_registry:
        return "matmul"
    if any(word in name for word in _NORMS) and "linalg" not in name:
        return "norm"
    if any(word in name for word in _RANDOMS):
        return "random"
    if any(word in name for word in _MATHS):
        return "math"
    return "move"


def _padding(name: str, args: Any) -> float:
    weight, groups = (args[2], args[9]) if name == "convolution_backward" else (args[1], args[8])
    if groups > 1:  # vectors run over the groups
        return 1.0
    return prod(ceil(count / _LANES) * _LANES / count for count in weight.shape[:2])


def _guess(tensor: Tensor) -> bool | int | float:
    """Return what a condition on values that nobody computed most likely is: all is there."""
    if tensor.dtype == torch.bool:
        return True
    return 1.0 if tensor.is_floating_point() else 0


def _touched_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor's elements; one that is spread out by strides of 0 counts once."""
    sizes = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride]
    return prod(sizes) * tensor.element_size() if tensor.numel() else 0


_FORMULAS: dict[Any, Callable[..., int]] = dict(
    zip(flash_attention_on_cpu(), (sdpa_flop, sdpa_backward_flop), strict=True)
)
