"""Several corpora mixed by weight, as exact as counting allows, and as seekable as one `Order`.

A fixed periodic pattern says which source the n-th sample of training comes from (Tijdeman 1980,
"The chairman assignment problem"): at any moment each source has given within one sample of its
share. Each source is an endless stream that goes on into its next epoch, so a small source repeats
while a large one is still in its first pass, and none restarts where an epoch of the mixture ends.
"""

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from mmlight.data.order.cursor import Order, check_place, check_share
from mmlight.errors import UserError

# Longest pattern. Weights without a common denominator up to this are rounded to multiples of
# 1 / 65536.
_MAX_PERIOD = 1 << 16
_MAX_STREAM_LANES = 32


class Mixture:
    """A `TrainOrder` over several sources.

    Sample numbers are those of a corpus that holds the sources' shards one source after another.

    Attributes:
        weights: share of each source as it is used; they sum to 1.
        global_batch: samples per step on all ranks together.
        steps_per_epoch: full global batches in an epoch.
    """

    def __init__(
        self,
        sources: Sequence[Sequence[int] | np.ndarray],
        *,
        weights: Sequence[float],
        global_batch: int,
        seed: int,
        window: int = 4096,
        samples_per_epoch: int | None = None,
    ) -> None:
        """Lay out the mixture.

        Args:
            sources: for each source, samples in each of its shards.
            weights: positive, one per source; only their ratios count.
            global_batch: samples per step on all ranks together.
            seed: any integer; other seeds give other orders.
            window: see `Order`.
            samples_per_epoch: length of an epoch; by default the samples of all sources.

        Raises:
            UserError: weights that are not one positive number per source, or too short an epoch.
        """
        if len(weights) != len(sources) or not sources:
            raise UserError(f"{len(weights)} weights for {len(sources)} sources; give one to each")
        if not all(weight > 0 and math.isfinite(weight) for weight in weights):
            raise UserError(f"weights {list(weights)}: each must be positive; leave a source out")
        if global_batch < 1:
            raise UserError(f"global batch {global_batch} must be at least 1")
        sizes = [int(np.sum(source)) for source in sources]
        if min(sizes) < 1:
            raise UserError(f"source {sizes.index(min(sizes))} of the mixture has no samples")
        self.num_samples = sum(sizes)
        self._window, self._samples_per_epoch = window, samples_per_epoch
        self.global_batch = global_batch
        epoch = self.num_samples if samples_per_epoch is None else samples_per_epoch
        self.steps_per_epoch = epoch // global_batch
        if self.steps_per_epoch < 1:
            raise UserError(
                f"an epoch of {epoch} samples is shorter than one global batch of {global_batch}; "
                f"use a global batch of at most {epoch}"
            )
        quotas = _quotas(weights)
        self.weights = [quota / sum(quotas) for quota in quotas]
        self._pattern = _pattern(quotas)
        self._given = np.zeros((len(quotas), len(self._pattern) + 1), np.int64)
        for source in range(len(quotas)):
            np.cumsum(self._pattern == source, out=self._given[source, 1:])
        self._first = np.cumsum([0, *sizes[:-1]])
        self._streams = [
            # One sample per lane and step: a pass over a source leaves out fewer than 32.
            Order(source, global_batch=lanes, num_lanes=lanes, seed=seed + number, window=window)
            for number, source in enumerate(sources)
            for lanes in [min(_MAX_STREAM_LANES, sizes[number])]
        ]

    @property
    def settings(self) -> dict[str, Any]:
        """See `TrainOrder`."""
        return {
            "window": self._window,
            "samples_per_epoch": self._samples_per_epoch,
            "weights": self.weights,
        }

    def check_world(self, world_size: int) -> None:
        """See `TrainOrder`."""
        check_share(self.global_batch, world_size)

    def counts(self, num_samples: int) -> list[int]:
        """Return how many of the first `num_samples` samples of training each source gives."""
        rounds, rest = divmod(num_samples, len(self._pattern))
        return [int(rounds * given[-1] + given[rest]) for given in self._given]

    def batch(self, epoch: int, step: int, *, rank: int = 0, world_size: int = 1) -> np.ndarray:
        """Return the sample numbers of one rank's batch; see `Order.batch`."""
        check_place(self, epoch, step, rank=rank, world_size=world_size)
        size = self.global_batch // world_size
        start = (epoch * self.steps_per_epoch + step) * self.global_batch + rank * size
        sources = self._pattern[np.arange(start, start + size) % len(self._pattern)]
        samples = np.empty(size, np.int64)
        before, after = self.counts(start), self.counts(start + size)
        for source, (first, last) in enumerate(zip(before, after, strict=True)):
            if first < last:
                samples[sources == source] = self._first[source] + _stream(
                    self._streams[source], first, last
                )
        return samples


def _stream(order: Order, first: int, last: int) -> np.ndarray:
    """Return samples `first` to `last` of the epochs of an order, one after another."""
    parts = []
    for_epoch = order.steps_per_epoch * order.global_batch
    while first < last:
        epoch, begin = divmod(first, for_epoch)
        end = min(last - epoch * for_epoch, for_epoch)
        start, stop = begin // order.global_batch, -(-end // order.global_batch)
        samples = order.steps(epoch, start, stop).reshape(-1)
        skip = start * order.global_batch
        parts.append(samples[begin - skip : end - skip])
        first = epoch * for_epoch + end
    return np.concatenate(parts)


def _quotas(weights: Sequence[float]) -> list[int]:
    """Return integers in the ratio of the weights whose sum is the length of the pattern."""
    exact = [Fraction(repr(float(weight))) for weight in weights]  # 0.1 is meant as one tenth
    shares = [weight / sum(exact) for weight in exact]
    period = math.lcm(*(share.denominator for share in shares))
    if period > _MAX_PERIOD:
        period = _MAX_PERIOD
    # Rounded so that the sum is kept: differences of rounded cumulative shares.
    bounds = [round(total * period) for total in itertools.accumulate(shares)]
    quotas = [bound - before for before, bound in itertools.pairwise([0, *bounds])]
    if min(quotas) < 1:
        small = weights[quotas.index(min(quotas))]
        raise UserError(f"weight {small} is less than 1/{_MAX_PERIOD} of all; raise it")
    return quotas


def _pattern(quotas: Sequence[int]) -> np.ndarray:
    """Return the source of each sample of one period.

    Of the sources that are due, the one whose last possible moment comes first.
    """
    period, count = sum(quotas), len(quotas)
    if count == 1:
        return np.zeros(period, np.int16)
    # Tijdeman's bound 1 / (2 K - 2), all in units of 1 / (period (2 K - 2)) to stay exact.
    scale = 2 * count - 2
    given = [0] * count
    pattern = np.empty(period, np.int16)
    for turn in range(1, period + 1):
        best_slack, best_source = 0, -1
        for source, quota in enumerate(quotas):
            owed = scale * (turn * quota - period * given[source])
            if owed < period:
                continue
            slack = (scale - 1) * period - owed  # over quota: the turns left, compared crosswise
            if best_source < 0 or slack * quotas[best_source] < best_slack * quota:
                best_slack, best_source = slack, source
        assert best_source >= 0, "Tijdeman: some source is always due"
        given[best_source] += 1
        pattern[turn - 1] = best_source
    return pattern
