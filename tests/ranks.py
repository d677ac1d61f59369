"""Run a function on several gloo processes and collect what each returns."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from mmlight import comm


def run_ranks(function: Callable[..., Any], *, world_size: int, folder: Path) -> list[Any]:
    """Call `function()` on each rank of a fresh process group; return the ranks' results.

    Args:
        function: of a test module's top level; returns what `torch.load` reads back with
            weights_only=True.
        world_size: number of processes. They are forked from a server that has imported torch
            once, in its only thread, so that starting them is quick and safe.
        folder: an empty folder.
    """
    mp.get_context("forkserver").set_forkserver_preload(["torch", "torch.distributed"])
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
