"""Iterates over a stream's batches, an epoch of so many at a time."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from mmlight.batch import Batch
from mmlight.data.loader import PositionedLoader, data_loader
from mmlight.data.stream.batches import StreamBatches
from mmlight.trainer.internals import end_workers


class StreamLoader(PositionedLoader):
    """Batches of training from a stream; see `mmlight.data.loader.PositionedLoader`.

    The stream goes on from one epoch to the next. Where training begins elsewhere, after a resume,
    shards are read from their beginning, in another order.

    Args:
        dataset: batches.
        position: see there.
        steps_per_epoch: batches of an epoch, on every rank.
        num_workers: worker processes; 0 to decode in this process.
        device: see there.
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
        super().__init__(position=position, device=device)
        self._dataset = dataset
        self._steps_per_epoch, self._num_workers = steps_per_epoch, num_workers
        self._loader: Any = None

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return self._steps_per_epoch

    def _begin(self, number: int) -> Iterator[Any]:
        self.close()
        self._loader = data_loader(
            replace(self._dataset, start=number),
            None,
            num_workers=self._num_workers,
            pin_memory=self._device is not None,
        )
        return iter(self._loader)

    def _take(self, stream: Iterator[Any], number: int) -> Batch:
        epoch, step = divmod(number, len(self))
        return replace(super()._take(stream, number), epoch=epoch, step=step)

    def close(self) -> None:
        """End the worker processes; the next iteration starts new ones, from the beginning."""
        self._stream = None
        if self._loader is not None:
            end_workers(self._loader)
