"""Iterates over a stream's batches, an epoch of so many at a time."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from mmlight.batch import Batch
from mmlight.data.loader import accept, data_loader, prefetch
from mmlight.data.stream.batches import StreamBatches
from mmlight.trainer.internals import end_workers


class StreamLoader:
    """Batches of training from a stream; see `mmlight.data.loader.TrainLoader`.

    The stream goes on from one epoch to the next. Where training begins elsewhere, after a resume,
    shards are read from their beginning, in another order.

    Args:
        dataset: batches.
        position: tells the number of the next batch, counted over all epochs.
        steps_per_epoch: batches of an epoch, on every rank.
        num_workers: worker processes; 0 to decode in this process.
        device: a GPU that batches are brought to ahead of their use; None leaves them in memory.

    Attributes:
        waited_s: how long training has waited for batches so far.
    """

    def __init__(
        self,
        dataset: StreamBatches,
        *,
        position: Callable[[], int],
        steps_per_epoch: int,
        num_workers: int,
        device: torch.device | None,
    ) -> None:
        self._dataset, self._position = dataset, position
        self._steps_per_epoch, self._num_workers, self._device = (
            steps_per_epoch,
            num_workers,
            device,
        )
        self._loader: Any = None
        self._stream: Iterator[Any] | None = None
        self._next = -1
        self.waited_s = 0.0

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return self._steps_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of an epoch, from the position on."""
        batches = self._batches()
        return batches if self._device is None else prefetch(batches, self._device)

    def _batches(self) -> Iterator[Batch]:
        number = self._position()  # when the first batch is asked for, not before
        for _ in range(len(self)):
            if self._stream is None or self._next != number:
                self._begin(number)
            assert self._stream is not None
            self._next = number + 1
            began = time.perf_counter()
            item = accept(next(self._stream))
            self.waited_s += time.perf_counter() - began
            epoch, step = divmod(number, len(self))
            yield replace(item, epoch=epoch, step=step)
            number += 1

    def _begin(self, number: int) -> None:
        self.close()
        self._loader = data_loader(
            replace(self._dataset, start=number),
            None,
            num_workers=self._num_workers,
            pin_memory=self._device is not None,
        )
        self._stream = iter(self._loader)

    def close(self) -> None:
        """End the worker processes; the next iteration starts new ones, from the beginning."""
        self._stream = None
        if self._loader is not None:
            end_workers(self._loader)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing; see `mmlight.data.loader.TrainLoader.state_dict`."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing; see `state_dict`."""
