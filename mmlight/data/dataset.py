"""Map-style data sets whose items are whole batches of one rank."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch.utils.data

from mmlight.batch import BadSample, Batch
from mmlight.data.collate import Layout, collate
from mmlight.data.decode.draw import Draws
from mmlight.data.order.ahead import Ahead
from mmlight.data.order.cursor import TrainOrder
from mmlight.data.order.evaluation import EvalOrder, ListedOrder
from mmlight.data.sample import (
    BadMemberError,
    Decoding,
    MissingInputError,
    Sample,
    SampleSet,
    decode_sample,
)
from mmlight.errors import UserError

_MAX_REPLACEMENTS = 20


@dataclass(frozen=True)
class Rank:
    """Which process this is, given explicitly: worker processes cannot ask torch.distributed.

    Attributes:
        number: of this process.
        world_size: all processes.
        on_node: processes of this machine, which share its cache of shards.
    """

    number: int = 0
    world_size: int = 1
    on_node: int = 1


@dataclass(frozen=True)
class Refusal:
    """A user's mistake found in a worker.

    torch would wrap an exception in the worker's traceback; the loader raises this as one line.
    """

    message: str


class _Batches(torch.utils.data.Dataset[Batch | Refusal]):
    """Batches of one rank by number."""

    def __init__(
        self, samples: SampleSet, *, order: Any, decoding: Decoding, layout: Layout, rank: Rank
    ) -> None:
        self.samples = samples
        self.order = order
        self.decoding = decoding
        self.layout = layout
        self.rank = rank

    def ahead(self) -> Ahead:
        """Return what fetches the shards that come next."""
        rank = self.rank
        return Ahead(
            self.samples.corpus,
            self.order,
            rank=rank.number,
            world_size=rank.world_size,
            on_node=rank.on_node,
        )

    def _describe(self, number: int, error: BadMemberError, *, replaced_by: str = "") -> BadSample:
        shard, key = self.samples.corpus.origin(number)
        return BadSample(
            shard=shard,
            key=key,
            member=error.member,
            reason=error.reason,
            replaced_by=replaced_by,
            index=number,
            missing=isinstance(error, MissingInputError),
        )


class TrainBatches(_Batches):
    """Item `n` is this rank's batch of the n-th step of training, whatever came before.

    The seed is that of crops, captions and replacements.
    """

    order: TrainOrder

    def __init__(
        self, samples: SampleSet, *, order: TrainOrder, seed: int, **settings: Any
    ) -> None:
        super().__init__(samples, order=order, **settings)
        self.seed = seed

    def __getitem__(self, number: int) -> Batch | Refusal:
        """Return a batch; bad samples in it are replaced and named in ``Batch.bad``."""
        epoch, step = divmod(number, self.order.steps_per_epoch)
        numbers = self.order.batch(
            epoch, step, rank=self.rank.number, world_size=self.rank.world_size
        )
        bad: list[BadSample] = []
        draws = partial(Draws, seed=self.seed, epoch=epoch)
        try:
            rows = [self._sample(int(sample), epoch, bad) for sample in numbers]
            batch = collate(rows, self.layout, epoch=epoch, step=step, bad=bad, draws=draws)
        except UserError as error:
            return Refusal(str(error))
        return replace(batch, sources=self.samples.sources(rows))

    def _sample(self, number: int, epoch: int, bad: list[BadSample]) -> Sample:
        draws: Callable[..., Draws] = partial(Draws, seed=self.seed, epoch=epoch, sample=number)
        try:
            return decode_sample(self.samples, number, self.decoding, draws=draws)
        except BadMemberError as error:
            first = error
        # The replacement depends on (seed, epoch, sample) alone, so it is the same on any number of
        # ranks and after a resume.
        choices = self.samples.neighbours(number)
        stream = draws("replacement")
        for _ in range(_MAX_REPLACEMENTS):
            other = choices[stream.integer(len(choices))]
            try:
                sample = decode_sample(self.samples, other, self.decoding, draws=draws)
            except BadMemberError:
                continue
            bad.append(self._describe(number, first, replaced_by=sample.key))
            return sample
        if isinstance(first, MissingInputError):  # most samples may lack it; no row counts then
            bad.append(self._describe(number, first))
            key, blank = self.samples.corpus.key(number), self.decoding.num_captions
            return Sample(number, key, blank_captions=blank, valid=False)
        raise UserError(
            f"{_MAX_REPLACEMENTS} samples drawn in place of {self.samples.corpus.key(number)}"
            f" cannot be decoded either ({first}); check the shards with 'mmlight shards check'"
        )


class EvalBatches(_Batches):
    """Item `n` is this rank's n-th batch of an evaluation, with all captions of each sample.

    A bad sample leaves an empty row that is marked as not valid; it is named in ``Batch.bad``.
    """

    order: EvalOrder | ListedOrder

    def __getitem__(self, number: int) -> Batch | Refusal:
        """Return a batch."""
        numbers, valid = self.order.batch(
            number, rank=self.rank.number, world_size=self.rank.world_size
        )
        bad: list[BadSample] = []
        rows: list[Sample] = []
        try:
            for sample, is_valid in zip(numbers.tolist(), valid.tolist(), strict=True):
                rows.append(self._sample(sample, bad if is_valid else []))
                rows[-1].valid &= is_valid
        except UserError as error:
            return Refusal(str(error))
        batch = collate(rows, self.layout, step=number, bad=bad)
        return replace(batch, sources=self.samples.sources(rows))

    def of(self, numbers: Sequence[int]) -> Batch:
        """Return a batch of these samples."""
        bad: list[BadSample] = []
        return collate([self._sample(number, bad) for number in numbers], self.layout, bad=bad)

    def _sample(self, number: int, bad: list[BadSample]) -> Sample:
        try:
            return decode_sample(self.samples, number, self.decoding, draws=None)
        except BadMemberError as error:
            bad.append(self._describe(number, error))
            return Sample(number, self.samples.corpus.key(number), valid=False)
