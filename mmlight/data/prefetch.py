"""Batches on their way to a GPU while it computes."""

from collections.abc import Iterator

import torch

from mmlight.batch import Batch


def prefetch(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield batches on a GPU; each is copied while the one before is computed with.

    One batch more than is used lies in the GPU's memory.

    Args:
        batches: in page-locked memory; from pageable memory the host waits for each copy.
        device: the GPU.
    """
    copies = torch.cuda.Stream(device)
    before: tuple[Batch, torch.cuda.Event] | None = None
    for batch in batches:
        with torch.cuda.stream(copies):
            moved = batch.to(device)
        arrived = copies.record_event()
        if before is not None:
            yield _received(*before)
        before = moved, arrived
    if before is not None:
        yield _received(*before)


def _received(batch: Batch, arrived: torch.cuda.Event) -> Batch:
    current = torch.cuda.current_stream()
    current.wait_event(arrived)
    for tensor in batch.tensors():
        # The memory was the copying stream's; it is free when this one has done with it too.
        tensor.record_stream(current)
    return batch
