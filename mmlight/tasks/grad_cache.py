"""Contrastive batches larger than memory: towers compute in chunks, the loss sees the whole batch.

GradCache (arXiv 2101.06983) computes all features chunk by chunk without keeping activations, the
loss and its gradients by the features once, and then each chunk again, with gradients. That is a
checkpoint around each chunk: autograd asks for a chunk's activations when the gradients of its
features are known. It costs one more forward pass, less one chunk, and gradients reach DDP
and FSDP once.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from mmlight.trainer.internals import AnyBatchNorm


def encode_in_chunks(
    tower: nn.Module, inputs: Any, *, size: int, keeps_last: bool = False
) -> Tensor:
    """Return the tower's features (B, D), keeping the activations of `size` rows at a time.

    Dropout and whatever else is drawn repeats its numbers in the second pass. Batch norms see one
    chunk at a time, as they see one rank at a time under DDP, and count each chunk once.

    Args:
        tower: gives features (rows, D).
        inputs: a part of a `mmlight.batch.Batch`, such as `Images`.
        size: samples of a chunk; the last one may be smaller.
        keeps_last: keep the activations of the last chunk, which is then not computed twice.
            Memory holds one chunk all the same where backward begins with it, because nothing
            was computed after it but the loss.
    """
    rows = inputs.size
    # A pass that stops where it has what it needs would skip the hooks that reshard parameters.
    with set_checkpoint_early_stop(False):
        features = []
        for start in range(0, rows, size):
            chunk = inputs.rows(start, start + size)
            if keeps_last and start + size >= rows:
                part = tower(chunk)
            else:
                part = checkpoint(
                    tower, chunk, use_reentrant=False, context_fn=lambda: _contexts(tower)
                )
            features.append(part)
    return torch.cat(features)


def _contexts(
    tower: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _statistics_kept(tower)


@contextmanager
def _statistics_kept(tower: nn.Module) -> Iterator[None]:
    """Keep the running statistics of batch norms: the first pass has counted this chunk."""
    norms = [m for m in tower.modules() if isinstance(m, AnyBatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
