"""A sharded decoder, whole for as long as it speaks."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Have every rank hold all weights of a module; where none are sharded, nothing changes.

    Ranks say answers of different lengths. With FSDP each call of the module would wait for the
    other ranks, and the one that speaks longest would wait for ever. Every rank enters and leaves.
    """
    parts: list[torch.distributed.fsdp.FSDPModule] = []
    if torch.distributed.is_available():
        from torch.distributed.fsdp import FSDPModule

        parts = [part for part in module.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(True, recurse=False)
