"""Run a function on several gloo processes and collect what each returns."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from mmlight import comm


def run_ranks(
    function: Callable[..., Any], *, world_size: int, folder: Path, preload: Sequence[str] = ()
) -> list[Any]:
    """Call `function()` on each rank of a fresh process group; return the ranks' results.

    Args:
        function: of a test module's top level; returns what `torch.load` reads back with
            weights_only=True.
        world_size: number of processes. They are forked from a server that has imported torch
            once, in its only thread, so that starting them is quick and safe.
        folder: an empty folder.
        preload: further modules that the server imports once; if it runs already, it does not.
    """
    mp.get_context("forkserver").set_forkserver_preload(["torch", "torch.distributed", *preload])
    mp.start_processes(
        _rank,
        args=(world_size, str(folder), function),
        nprocs=world_size,
        start_method="forkserver",
    )
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world_size)]


def _rank(rank: int, world_size: int, folder: str, function: Callable[..., Any]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world_size
    )
    torch.save(function(), Path(folder) / f"{rank}.pt")
    comm.barrier()  # gloo can abort when a rank leaves before the others are done
    dist.destroy_process_group()


@contextmanager
def count_sent() -> Iterator[dict[str, int]]:
    """Count the bytes that this rank sends, by collective and type of number.

    A collective counts as its ring algorithm sends: (W - 1) / W of the whole for a gather or a
    reduce-scatter. Sums and pickled objects are not counted.
    """
    sent: dict[str, int] = {}
    gather, scatter = dist.all_gather_into_tensor, dist.reduce_scatter_tensor
    exchange = dist.batch_isend_irecv

    def count(kind: str, x: torch.Tensor, num_bytes: int) -> None:
        key = f"{kind} {str(x.dtype).removeprefix('torch.')}"
        sent[key] = sent.get(key, 0) + num_bytes

    def counted_gather(out: torch.Tensor, x: torch.Tensor) -> Any:
        count("gather", x, out.nbytes - x.nbytes)
        return gather(out, x)

    def counted_scatter(out: torch.Tensor, x: torch.Tensor) -> Any:
        count("reduce_scatter", x, x.nbytes - out.nbytes)
        return scatter(out, x)

    def counted_exchange(operations: list[dist.P2POp]) -> Any:
        for operation in operations:
            if operation.op is dist.isend:
                count("shift", operation.tensor, operation.tensor.nbytes)
        return exchange(operations)

    with (
        patch.object(dist, "all_gather_into_tensor", counted_gather),
        patch.object(dist, "reduce_scatter_tensor", counted_scatter),
        patch.object(dist, "batch_isend_irecv", counted_exchange),
    ):
        yield sent
