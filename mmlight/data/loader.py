"""Iterates over whole batches in worker processes, and brings them to a GPU while it computes.

Neither class is a `torch.utils.data.DataLoader`: Lightning would give one a DistributedSampler, and
the data sets here know their rank already.
"""

import itertools
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from mmlight.batch import Batch
from mmlight.data.dataset import EvalBatches, Refusal, TrainBatches
from mmlight.errors import UserError
from mmlight.signals import held, shield_worker
from mmlight.trainer.internals import end_workers


class _CountUp(Sampler[int]):
    """Yields whole numbers from `start` on, for ever."""

    def __init__(self) -> None:
        self.start = 0

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.start)


def _init_worker(worker: int) -> None:
    torch.set_num_threads(1)
    # Ctrl-C reaches the whole process group; the main process ends the workers in order
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    shield_worker()


class ShieldedLoader(DataLoader[Any]):
    """A DataLoader whose workers never hear the signals that the job is sent."""

    def __iter__(self) -> Any:
        """Begin to read; workers that are started now are started with signals held."""
        with held():
            return super().__iter__()


def data_loader(
    dataset: torch.utils.data.Dataset[Batch | Refusal],
    sampler: Sampler[int] | range | None,
    *,
    num_workers: int,
    pin_memory: bool,
) -> DataLoader[Any]:
    """Return a loader of whole batches; a data set that is iterated over has no sampler."""
    if num_workers > 0:
        # the tokenizers library has threads, and warns at a fork after it used them
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return ShieldedLoader(
        dataset,
        batch_size=None,
        sampler=sampler,
        num_workers=num_workers,
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0,
        worker_init_fn=_init_worker,
        # each new iterator draws a seed; from torch's global generator, this would change what the
        # model draws, and differently so in a resumed run
        generator=torch.Generator(),
    )


def accept(item: Batch | Refusal) -> Batch:
    """Return a batch; raise what a worker refused."""
    if isinstance(item, Refusal):
        raise UserError(item.message)
    return item


class PositionedLoader(ABC):
    """Batches of training from a position on.

    An iteration starts at the position that holds when its first batch is asked for, and gives
    ``len(loader)`` batches: after a resume in the middle of an epoch it would go on into the next
    one, but the trainer stops it at the epoch's end. Workers stay alive and keep reading ahead
    between epochs and during validation.

    Args:
        position: tells the number of the next batch, counted over all epochs.
        device: a GPU that batches are brought to ahead of their use; None leaves them in memory.

    Attributes:
        waited_s: how long training has waited for batches so far.
    """

    def __init__(self, *, position: Callable[[], int], device: torch.device | None) -> None:
        self._position, self._device = position, device
        self._stream: Iterator[Any] | None = None
        self._next = -1
        self.waited_s = 0.0

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of batches in an epoch."""

    @abstractmethod
    def _begin(self, number: int) -> Iterator[Any]:
        """Return what yields batches from this number on."""

    @abstractmethod
    def close(self) -> None:
        """End the worker processes; the next iteration starts new ones."""

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches from the position on."""
        batches = self._batches()
        return batches if self._device is None else prefetch(batches, self._device)

    def _batches(self) -> Iterator[Batch]:
        # A generator runs only when asked for its first batch. Lightning makes (and drops)
        # iterators before it restores a checkpoint, and must not start workers with these.
        number = self._position()
        for _ in range(len(self)):
            if self._stream is None or self._next != number:
                self._stream = self._begin(number)
            self._next = number + 1
            yield self._take(self._stream, number)
            number += 1

    def _take(self, stream: Iterator[Any], number: int) -> Batch:
        """Return the batch of this number, the next of what `_begin` returned."""
        began = time.perf_counter()
        item = next(stream)
        self.waited_s += time.perf_counter() - began
        return accept(item)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the position is in the data module's state.

        Lightning warns about resuming within an epoch unless a loader has this method.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027  (Lightning's)
        """Do nothing; see `state_dict`."""


class TrainLoader(PositionedLoader):
    """Batches of training whose order is known; see `PositionedLoader`.

    Args:
        dataset: batches by number.
        position: see there.
        num_workers: worker processes; 0 to decode in this process.
        device: see there.
    """

    def __init__(
        self,
        dataset: TrainBatches,
        *,
        position: Callable[[], int],
        num_workers: int,
        device: torch.device | None,
    ) -> None:
        super().__init__(position=position, device=device)
        self.dataset = dataset
        self._counter = _CountUp()
        self._loader = data_loader(
            dataset, self._counter, num_workers=num_workers, pin_memory=device is not None
        )
        self._ahead = dataset.ahead()

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return self.dataset.order.steps_per_epoch

    def _begin(self, number: int) -> Iterator[Any]:
        self._counter.start = number
        return iter(self._loader)

    def _take(self, stream: Iterator[Any], number: int) -> Batch:
        self._ahead.at(number)
        return super()._take(stream, number)

    def close(self) -> None:
        """End the worker processes; the next iteration starts new ones."""
        self._stream = None
        end_workers(self._loader)
        self._ahead.close()


class EvalLoader:
    """All batches of an evaluation, once per iteration; see `TrainLoader`.

    They are copied to page-locked memory (`pin_memory`) for the way to a GPU.
    """

    def __init__(self, dataset: EvalBatches, *, num_workers: int, pin_memory: bool) -> None:
        self.dataset = dataset
        self._length = dataset.order.num_batches(dataset.rank.world_size)
        self._ahead = dataset.ahead()
        self._loader = data_loader(
            dataset, range(self._length), num_workers=num_workers, pin_memory=pin_memory
        )

    def __len__(self) -> int:
        """Return the number of batches, the same on every rank."""
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        """Yield every batch."""
        self._ahead.at(0)
        for number, item in enumerate(self._loader):
            self._ahead.at(number + 1)
            yield accept(item)
        self._ahead.close()

    def close(self) -> None:
        """End the worker processes; the next iteration starts new ones."""
        end_workers(self._loader)
        self._ahead.close()


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
