"""The order of samples as a pure function of (seed, epoch, step): any step is found at once.

Per epoch the shards are permuted and the sequence, begun at a random place, is cut into `C` lanes
of equal length. Within windows of a lane the samples are permuted again. A global batch takes the
next ``global_batch / C`` samples of every lane, and of `W` ranks each owns ``C / W`` consecutive
lanes. So the ranks' batches, joined in rank order, are the same global batch whatever `W` is, each
rank reads few shards at a time, and all have equally many full batches.

If a lane fits into one window, the whole epoch is permuted at once instead: a short data set would
otherwise have most of its neighbours in one lane, where few of them meet in a batch.

All randomness is raw Philox output, sorted: NumPy promises no stable results of its
`Generator.permutation`.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from mmlight.errors import UserError

_MAX_DEFAULT_LANES = 32
# First words of the Philox counter, so that no two uses draw the same bits.
_SHARDS, _ROTATION, _WINDOW, _WHOLE = range(4)


def random_bits(
    count: int, *, seed: int, epoch: int, use: int, place: tuple[int, int]
) -> np.ndarray:
    """Return `count` uint64 that depend on the other arguments alone, on every platform."""
    key = np.array([seed % 2**64, epoch], np.uint64)
    # Drawing counts up the first word only.
    counter = np.array([0, use, *place], np.uint64)
    return np.random.Philox(key=key, counter=counter).random_raw(count)


def permutation(
    count: int, *, seed: int, epoch: int, use: int, place: tuple[int, int]
) -> np.ndarray:
    """Return a permutation of ``range(count)`` that depends on the other arguments alone."""
    bits = random_bits(count, seed=seed, epoch=epoch, use=use, place=place)
    return np.argsort(bits, kind="stable")


def default_lanes(global_batch: int) -> int:
    """Return how many lanes an order has where nobody says."""
    return math.gcd(global_batch, _MAX_DEFAULT_LANES)


class TrainOrder(Protocol):
    """What `Order`, `Mixture` and `Bucketed` have in common."""

    steps_per_epoch: int

    @property
    def settings(self) -> dict[str, Any]:
        """What the order depends on besides its samples, batch and seed."""
        ...

    def check_world(self, world_size: int) -> None:
        """Raise UserError unless `world_size` ranks can share the batches of this order."""
        ...

    def batch(self, epoch: int, step: int, *, rank: int = 0, world_size: int = 1) -> np.ndarray:
        """Return the sample numbers of one rank's batch."""
        ...


def check_share(global_batch: int, world_size: int) -> None:
    """Raise UserError unless `world_size` ranks can share a batch equally."""
    if world_size < 1 or global_batch % world_size:
        raise UserError(
            f"{world_size} ranks can't share a global batch of {global_batch} equally; "
            f"use one that is a multiple of {world_size}"
        )


def check_place(order: TrainOrder, epoch: int, step: int, *, rank: int, world_size: int) -> None:
    """Refuse to look up a batch that `order` does not have."""
    order.check_world(world_size)
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} of {world_size}")
    if epoch < 0 or not 0 <= step < order.steps_per_epoch:
        raise IndexError(f"epoch {epoch}, step {step} of {order.steps_per_epoch}")


class Order:
    """Order of training: every epoch another, no sample twice in one.

    The ``len % global_batch`` samples that fill no batch are left out, other ones in each epoch.

    Attributes:
        num_samples: samples in all shards.
        global_batch: samples per step on all ranks together.
        num_lanes: C, see the module.
        steps_per_epoch: full global batches in an epoch.
    """

    def __init__(
        self,
        shard_sizes: Sequence[int] | np.ndarray,
        *,
        global_batch: int,
        seed: int,
        num_lanes: int | None = None,
        window: int = 4096,
    ) -> None:
        """Lay out the order; costs nothing per sample.

        Args:
            shard_sizes: samples in each shard.
            global_batch: samples per step on all ranks together.
            seed: any integer; other seeds give other orders.
            num_lanes: divides `global_batch`; a multiple of every number of ranks to be used.
                By default the greatest common divisor of `global_batch` and 32.
            window: how many consecutive samples of a lane are permuted together. Larger ones mix
                better and read from more shards at a time.

        Raises:
            UserError: fewer samples than one batch, or lanes that don't divide it.
        """
        sizes = np.asarray(shard_sizes, np.int64)
        self.num_samples = int(sizes.sum())
        self.global_batch = global_batch
        if global_batch < 1 or window < 1:
            raise UserError(f"global batch ({global_batch}) and window ({window}) are at least 1")
        self.num_lanes = num_lanes or default_lanes(global_batch)
        if self.num_lanes < 1 or global_batch % self.num_lanes:
            raise UserError(
                f"num_lanes {self.num_lanes} does not divide the global batch of {global_batch}; "
                f"{default_lanes(global_batch)} would"
            )
        if self.num_samples < global_batch:
            raise UserError(
                f"{self.num_samples} samples are fewer than one global batch of {global_batch}; "
                f"use more shards or a global batch of at most {self.num_samples}"
            )
        self.steps_per_epoch = self.num_samples // global_batch
        self._sizes = sizes
        self._seed = seed
        self._window = window
        self._per_lane = global_batch // self.num_lanes
        self._lane_length = self.steps_per_epoch * self._per_lane
        self._num_windows = -(-self._lane_length // window)
        self._epoch: _Epoch | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """See `TrainOrder`."""
        return {"window": self._window, "num_lanes": self.num_lanes}

    def check_world(self, world_size: int) -> None:
        """See `TrainOrder`."""
        if world_size < 1 or self.num_lanes % world_size:
            if world_size < 1 or self.global_batch % world_size:
                remedy = f"use a global batch that is a multiple of {world_size}"
            else:
                per_rank, most = self.global_batch // world_size, _MAX_DEFAULT_LANES // world_size
                share = max(n for n in range(1, max(most, 1) + 1) if per_rank % n == 0)
                remedy = f"set data.num_lanes to {world_size * share}"
            raise UserError(
                f"{world_size} ranks can't share a global batch of {self.global_batch} in "
                f"{self.num_lanes} lanes equally; {remedy}"
            )

    def batch(self, epoch: int, step: int, *, rank: int = 0, world_size: int = 1) -> np.ndarray:
        """Return the sample numbers of one rank's batch: int64, ``global_batch / world_size``."""
        check_place(self, epoch, step, rank=rank, world_size=world_size)
        lanes = self.num_lanes // world_size
        return self.steps(
            epoch, step, step + 1, lanes=range(rank * lanes, (rank + 1) * lanes)
        ).reshape(-1)

    def steps(self, epoch: int, start: int, stop: int, *, lanes: range | None = None) -> np.ndarray:
        """Return the sample numbers of steps of an epoch, up to `stop`, int64 (steps, samples).

        They are taken from consecutive lanes, from all by default.
        """
        if epoch < 0 or not 0 <= start < stop <= self.steps_per_epoch:
            raise IndexError(f"epoch {epoch}, steps {start} to {stop} of {self.steps_per_epoch}")
        if self._epoch is None or self._epoch.number != epoch:
            self._epoch = _Epoch(self._sizes, self._seed, epoch, is_whole=self._num_windows <= 1)
        lanes = range(self.num_lanes) if lanes is None else lanes
        first, last = start * self._per_lane, stop * self._per_lane
        places = np.stack([self._lane(self._epoch, lane, first, last) for lane in lanes])
        # (lanes, steps, samples) to (steps, lanes, samples)
        places = places.reshape(len(lanes), stop - start, -1).swapaxes(0, 1)
        return self._epoch.samples_at(places.reshape(stop - start, -1))

    def _lane(self, epoch: "_Epoch", lane: int, first: int, last: int) -> np.ndarray:
        """Return what comes at positions `first` to `last` of a lane, as places in the epoch."""
        base = lane * self._lane_length
        if epoch.is_whole:
            return np.arange(base + first, base + last)
        parts = []
        position = first
        while position < last:
            # Window w covers [w L // n, (w + 1) L // n): lengths differ by one at most.
            window = ((position + 1) * self._num_windows - 1) // self._lane_length
            begin = window * self._lane_length // self._num_windows
            end = (window + 1) * self._lane_length // self._num_windows
            stop = min(last, end)
            shuffled = epoch.window(lane, window, end - begin)
            parts.append(base + begin + shuffled[position - begin : stop - begin])
            position = stop
        return np.concatenate(parts)


class _Epoch:
    """The shards' permutation of one epoch and, per lane, that of the window last used."""

    def __init__(self, sizes: np.ndarray, seed: int, number: int, *, is_whole: bool) -> None:
        self.number = number
        self.is_whole = is_whole
        self._seed = seed
        num_samples = int(sizes.sum())
        if is_whole:
            self._samples = self._permutation(num_samples, _WHOLE, (0, 0))
            return
        shards = self._permutation(len(sizes), _SHARDS, (0, 0))
        self._first_sample = (np.cumsum(sizes) - sizes)[shards]
        self._ends = np.cumsum(sizes[shards])
        self._begins = self._ends - sizes[shards]
        # Else a data set of few shards would leave out, and cut lanes at, nearly the same samples.
        bits = random_bits(1, seed=seed, epoch=number, use=_ROTATION, place=(0, 0))
        self._rotation = int(bits[0]) % num_samples
        self._windows: dict[int, tuple[int, np.ndarray]] = {}

    def samples_at(self, places: np.ndarray) -> np.ndarray:
        """Map places in the epoch to sample numbers."""
        if self.is_whole:
            return self._samples[places]
        places = (places + self._rotation) % self._ends[-1]
        shards = np.searchsorted(self._ends, places, side="right")
        return self._first_sample[shards] + places - self._begins[shards]

    def window(self, lane: int, window: int, length: int) -> np.ndarray:
        """Return the permutation of a window."""
        cached = self._windows.get(lane)
        if cached is None or cached[0] != window:
            cached = window, self._permutation(length, _WINDOW, (lane, window))
            self._windows[lane] = cached
        return cached[1]

    def _permutation(self, count: int, use: int, place: tuple[int, int]) -> np.ndarray:
        return permutation(count, seed=self._seed, epoch=self.number, use=use, place=place)
