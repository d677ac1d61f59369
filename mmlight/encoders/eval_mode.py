"""Evaluation mode for a moment."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Put a module and its parts in evaluation mode; afterwards each part is in its own again.

    Args:
        module: some of its parts may be in evaluation mode already (a locked tower).
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            # Not `train()`, which some parts override and which goes down to others.
            part.training = training
