"""The order of evaluations: every sample once and in order, equally many batches on each rank."""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from mmlight.errors import UserError


class EvalOrder:
    """Order of evaluation: every sample once and in order, equally many batches on each rank.

    Batch `s` of all ranks together holds the samples from ``s * batch_size * world_size`` on, each
    rank a consecutive part. Only the last batch is short of samples: they are shared out equally
    and the rows left over repeat a sample and are marked as not valid. Of several sources, one
    after another, no batch has samples of two.
    """

    def __init__(self, *num_samples: int, batch_size: int) -> None:
        """Lay out the order.

        Args:
            num_samples: samples to evaluate, of each source.
            batch_size: rows per rank and batch; fewer if there are fewer samples per rank.
        """
        if min(num_samples) < 1 or batch_size < 1:
            given = " and ".join(map(str, num_samples))
            raise UserError(f"{given} samples in batches of {batch_size}: each at least 1")
        self._sizes = num_samples
        self.batch_size = batch_size

    def num_batches(self, world_size: int = 1) -> int:
        """Return the number of batches, the same for every rank."""
        return sum(self._num_batches(world_size))

    def batch(
        self, step: int, *, rank: int = 0, world_size: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the sample numbers (int64) of a rank's batch and which rows are valid (bool)."""
        ends = list(accumulate(self._num_batches(world_size)))
        if not 0 <= step < ends[-1] or not 0 <= rank < world_size:
            raise IndexError(f"batch {step} of {ends[-1]}, rank {rank}")
        source = int(np.searchsorted(ends, step, side="right"))
        step -= ends[source - 1] if source else 0
        num_samples, before = self._sizes[source], sum(self._sizes[:source])
        rows = min(self.batch_size, -(-num_samples // world_size))
        start = step * self.batch_size * world_size
        count = min(self.batch_size * world_size, num_samples - start)
        first, last = start + count * rank // world_size, start + count * (rank + 1) // world_size
        samples = np.arange(first, first + rows)
        # A rank without a sample of its own repeats the one before it.
        return before + np.minimum(samples, max(last - 1, 0)), samples < last

    def _num_batches(self, world_size: int) -> list[int]:
        return [-(-size // (self.batch_size * world_size)) for size in self._sizes]


class ListedOrder:
    """Order of an evaluation whose batches are given one by one, for this rank alone."""

    def __init__(self, batches: Sequence[np.ndarray]) -> None:
        """Take the sample numbers of each batch."""
        self._batches = batches

    def num_batches(self, world_size: int = 1) -> int:
        """Return the number of batches."""
        return len(self._batches)

    def batch(
        self, step: int, *, rank: int = 0, world_size: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the sample numbers (int64) of a batch and which rows are valid: all."""
        numbers = self._batches[step]
        return numbers, np.ones(len(numbers), bool)
