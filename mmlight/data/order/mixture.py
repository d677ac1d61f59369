"""Several corpora mixed by weight, as exact as counting allows, and as seekable as one `Order`.

`mmlight.data.order.shares` says which source the n-th sample of training (or the n-th batch, where
a batch is of one source) comes from. Each source is an endless stream that goes on into its next
epoch, so a small source repeats while a large one is still in its first pass, and none restarts
where an epoch of the mixture ends.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from mmlight.data.order.cursor import Order, check_place, check_share
from mmlight.data.order.shares import Shares, Weight
from mmlight.errors import UserError

_MAX_STREAM_LANES = 32
Batches = Literal["mixed", "one_source"]


class Mixture:
    """A `TrainOrder` over several sources.

    Sample numbers are those of a corpus that holds the sources' shards one source after another.

    Attributes:
        weights: share of each source as it is used; they sum to 1. Where weights change, these by
            the number of the batch that each holds from.
        global_batch: samples per step on all ranks together.
        steps_per_epoch: full global batches in an epoch.
    """

    weights: list[float] | dict[int, list[float]]

    def __init__(
        self,
        sources: Sequence[Sequence[int] | np.ndarray],
        *,
        weights: Sequence[Weight | Mapping[int, Weight]],
        global_batch: int,
        seed: int,
        window: int = 4096,
        samples_per_epoch: int | None = None,
        batches: Batches = "mixed",
    ) -> None:
        """Lay out the mixture.

        Args:
            sources: for each source, samples in each of its shards.
            weights: positive, one per source; only their ratios count. Instead of one, several by
                the number of the batch that each holds from, counted over all epochs; 0 there
                leaves the source out.
            global_batch: samples per step on all ranks together.
            seed: any integer; other seeds give other orders.
            window: see `Order`.
            samples_per_epoch: length of an epoch; by default the samples of all sources.
            batches: `mixed`: each sample is dealt to a source; `one_source`: each batch is.

        Raises:
            UserError: weights that are not one positive number per source, or too short an epoch.
        """
        if len(weights) != len(sources) or not sources:
            raise UserError(f"{len(weights)} weights for {len(sources)} sources; give one to each")
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
        self._batches = batches
        # What is dealt at once, and how many of it a batch has.
        self._unit = global_batch if batches == "one_source" else 1
        by_batch = _by_batch(weights)
        per_batch = global_batch // self._unit
        self._shares = Shares({batch * per_batch: each for batch, each in by_batch.items()})
        shares = dict(zip(sorted(by_batch), self._shares.shares, strict=True))
        self.weights = shares[0] if len(shares) == 1 else shares
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
        found = {
            "window": self._window,
            "samples_per_epoch": self._samples_per_epoch,
            "weights": self.weights,
        }
        return found if self._batches == "mixed" else found | {"batches": self._batches}

    def check_world(self, world_size: int) -> None:
        """See `TrainOrder`."""
        check_share(self.global_batch, world_size)

    def counts(self, num_samples: int) -> list[int]:
        """Return how many of the first `num_samples` samples of training each source gives."""
        whole, rest = divmod(num_samples, self._unit)
        counts = [count * self._unit for count in self._shares.counts(whole)]
        if rest:
            counts[int(self._shares.sources(whole, whole + 1)[0])] += rest
        return counts

    def batch(self, epoch: int, step: int, *, rank: int = 0, world_size: int = 1) -> np.ndarray:
        """Return the sample numbers of one rank's batch; see `Order.batch`."""
        check_place(self, epoch, step, rank=rank, world_size=world_size)
        size = self.global_batch // world_size
        start = (epoch * self.steps_per_epoch + step) * self.global_batch + rank * size
        stop = start + size
        dealt = self._shares.sources(start // self._unit, -(-stop // self._unit))
        sources = np.repeat(dealt, self._unit)[start % self._unit :][:size]
        samples = np.empty(size, np.int64)
        before, after = self.counts(start), self.counts(stop)
        for source, (first, last) in enumerate(zip(before, after, strict=True)):
            if first < last:
                samples[sources == source] = self._first[source] + _stream(
                    self._streams[source], first, last
                )
        return samples


def _by_batch(weights: Sequence[Weight | Mapping[int, Weight]]) -> dict[int, list[Weight]]:
    """Return the weights of all sources by the batch that they hold from."""
    schedules = [w if isinstance(w, Mapping) else {0: w} for w in weights]
    for given, schedule in zip(weights, schedules, strict=True):
        values = [float(value) for value in schedule.values()]
        is_fit = all(value >= 0 and math.isfinite(value) for value in values)
        if not isinstance(given, Mapping) and not (is_fit and values[0] > 0):
            raise UserError(
                f"weights {[_plain(w) for w in weights]}: each must be positive; leave a source out"
            )
        if not is_fit or min(schedule, default=1) != 0 or max(values) == 0:
            raise UserError(
                f"weight {_plain(given)}: weights that change are 0 or more, not all of them 0, by "
                "the step from which each holds, 0 the first, such as {0: 1.0, 10000: 0.5}"
            )
    changes = sorted({step for schedule in schedules for step in schedule})
    found = {
        change: [schedule[max(s for s in schedule if s <= change)] for schedule in schedules]
        for change in changes
    }
    for change, each in found.items():
        if not any(each):
            raise UserError(f"from step {change} on, no source of the mixture has a weight above 0")
    return found


def _plain(weight: Weight | Mapping[int, Weight]) -> Any:
    if isinstance(weight, Mapping):
        return {step: float(value) for step, value in weight.items()}
    return float(weight)


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
