"""Collectives between the ranks of a run; on one process each is the identity.

Every function here must be called by all ranks of the default process group, in the same order
(`rank` and `world_size` excepted, which ask nobody). Without a process group nothing is sent: a
lone process gets its own values back. Tensors may lie on any device; where the backend is NCCL they
travel through this rank's GPU and the result returns to the device of the input.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def is_distributed() -> bool:
    """Return whether there is a process group of more than one rank."""
    return world_size() > 1


def rank() -> int:
    """Return this process's number, 0 on a lone process (not a collective)."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes, 1 on a lone process (not a collective)."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def barrier() -> None:
    """Wait until every rank is here; a lone process goes on at once."""
    if is_distributed():
        dist.barrier()


def gather(x: Tensor) -> Tensor:
    """Concatenate `x` of all ranks along its first dimension, in the order of ranks.

    Every rank calls it with the same shape and dtype; no gradient flows. A lone process gets `x`.

    Args:
        x: (B, ...), at least one dimension.

    Returns:
        (W * B, ...) on the device of `x`, equal on all ranks.
    """
    x = x.detach()
    if not is_distributed():
        return x
    sent = _to_wire(x)
    out = sent.new_empty((world_size() * len(sent), *sent.shape[1:]))
    dist.all_gather_into_tensor(out, sent)
    return out.to(x.device)


def gather_variable(x: Tensor) -> Tensor:
    """Like `gather`, for first dimensions that differ between ranks (0 included).

    Every rank calls it with the same trailing shape and dtype; no gradient flows. Rows come in the
    order of ranks. A lone process gets `x`. Short ranks are padded on the way, so the traffic is
    W times the longest rank's.
    """
    x = x.detach()
    if not is_distributed():
        return x
    lengths = gather(torch.tensor([len(x)], device=x.device)).tolist()
    longest = max(lengths)
    padded = x.new_zeros((longest, *x.shape[1:]))
    padded[: len(x)] = x
    rows = gather(padded)
    return torch.cat([rows[i * longest : i * longest + n] for i, n in enumerate(lengths)])


def gather_objects(value: T) -> list[T]:
    """Return every rank's `value`, in the order of ranks; every rank calls it.

    For small plain values (numbers, strings, lists, dicts): they are pickled between the ranks of
    this run, and nobody else's bytes are ever read. A lone process gets ``[value]``.
    """
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast_string(value: str) -> str:
    """Return rank 0's `value` on every rank; every rank calls it. A lone process keeps its own."""
    if not is_distributed():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def shift(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Send `tensors` to the next rank and return those of the rank before, in a ring of all ranks.

    Every rank calls it with the same shapes and dtypes; no gradient flows. A lone process gets its
    own back.
    """
    kept = [x.detach() for x in tensors]
    if not is_distributed():
        return kept
    sent = [_to_wire(x) for x in kept]
    received = [torch.empty_like(x) for x in sent]
    to, source = (rank() + 1) % world_size(), (rank() - 1) % world_size()
    # A tag for each: messages between the same two ranks may overtake one another.
    operations = [dist.P2POp(dist.isend, x, to, tag=i) for i, x in enumerate(sent)]
    operations += [dist.P2POp(dist.irecv, x, source, tag=i) for i, x in enumerate(received)]
    for request in dist.batch_isend_irecv(operations):
        request.wait()
    return [out.to(x.device) for out, x in zip(received, kept, strict=True)]


def all_reduce_sum(x: Tensor) -> Tensor:
    """Return the sum of `x` over ranks as a new tensor; every rank calls it with one shape.

    No gradient flows (see `sum_with_grad`). A lone process gets a copy. Half precision is summed
    in float32.
    """
    return _all_reduce(x, op=dist.ReduceOp.SUM)


def all_reduce_max(x: Tensor) -> Tensor:
    """Return the elementwise maximum of `x` over ranks as a new tensor; otherwise as the sum."""
    return _all_reduce(x, op=dist.ReduceOp.MAX)


def gather_with_grad(x: Tensor) -> Tensor:
    """Like `gather`, and gradients flow back to the rank that each row came from.

    Every rank calls it with the same shape and dtype, and every rank must run the backward pass,
    which is a collective too: row gradients are *summed* over ranks (a reduce-scatter, in float32
    for half precision). If each rank's loss is W times its part of a global sum, an average of
    parameter gradients over ranks (DDP, FSDP) then gives the gradient of that global sum.
    A lone process gets `x` itself.
    """
    return _Gather.apply(x) if is_distributed() else x


def sum_with_grad(x: Tensor) -> Tensor:
    """Sum parts of a loss over ranks, with gradients that are right after an average over ranks.

    Every rank calls it with one shape. Returns the same value on every rank. Backward multiplies
    the incoming gradient by W and sends nothing, which is the exact gradient provided that every
    rank does the same with the result (as a loss does). A lone process gets `x` itself.
    """
    return _Sum.apply(x) if is_distributed() else x


def mean_over_ranks(total: Tensor, count: Tensor, *, least: float = 1.0) -> Tensor:
    """Return the mean of a loss over the samples of all ranks, with its exact gradient.

    Every rank calls it, also one without samples; a lone process gets its own mean. Ranks may have
    different numbers of samples, which the mean of their gradients alone would weigh wrongly.

    Args:
        total: this rank's sum, with its gradient.
        count: what this rank adds to the divisor; it gets no gradient.
        least: the smallest divisor, where nothing counts.
    """
    return sum_with_grad(total) / all_reduce_sum(count).clamp(min=least)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return gather(x.contiguous())

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        sent = _to_wire(_at_least_float32(grad).contiguous())
        out = sent.new_empty((len(sent) // world_size(), *sent.shape[1:]))
        dist.reduce_scatter_tensor(out, sent)
        return out.to(device=grad.device, dtype=grad.dtype)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return all_reduce_sum(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0] * world_size()


def _all_reduce(x: Tensor, *, op: Any) -> Tensor:
    x = x.detach()
    if not is_distributed():
        return x.clone()
    sent = _to_wire(_at_least_float32(x))
    # The collective works in place: never on the caller's tensor.
    sent = sent.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(sent, op=op)
    return sent.to(device=x.device, dtype=x.dtype)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _to_wire(x: Tensor) -> Tensor:
    """Return a contiguous `x` on a device that the backend can send from."""
    if dist.get_backend() == dist.Backend.NCCL and x.device.type == "cpu":
        x = x.to(torch.device("cuda", torch.cuda.current_device()))
    return x.contiguous()
