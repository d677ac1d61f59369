"""Batches of a stream, made in worker processes as those of indexed shards are."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch.utils.data

from mmlight.batch import BadSample, Batch
from mmlight.data.collate import Layout, collate
from mmlight.data.dataset import Rank, Refusal
from mmlight.data.decode.draw import Draws
from mmlight.data.sample import (
    BadMemberError,
    Decoding,
    MissingInputError,
    Sample,
    SampleSet,
    decode_sample,
)
from mmlight.data.shards.corpus import Corpus
from mmlight.data.shards.tar_stream import KEY, URL, contents
from mmlight.data.stream.reading import Reader, Stream
from mmlight.errors import UserError

# On end; the fault is then one of the shards, or of how they are read.
_MOST_BAD = 100
# On end, without anything that the model reads.
_MOST_MISSING = 100_000
_ENDINGS = (".gz", ".bz2", ".zst", ".tgz", ".tar")


class PassingSample(Corpus):
    """A corpus of the one sample that is decoded just now, by whatever number."""

    has_shards = False

    def __init__(self) -> None:
        super().__init__([])
        self._raw: Mapping[str, Any] = {}

    def hold(self, raw: Mapping[str, Any]) -> None:
        """Let go of the last sample, and take this one."""
        self._raw = raw

    def folder(self, sample: int) -> str | None:
        """Return the folder of its shard."""
        return os.path.dirname(self._raw[URL])

    def key(self, sample: int) -> str:
        """Return ``shard-name/sample-key``."""
        name = str(self._raw[URL]).rpartition("/")[2]
        for ending in _ENDINGS:
            name = name.removesuffix(ending)
        return f"{name}/{self._raw[KEY]}"

    def origin(self, sample: int) -> tuple[str, str]:
        """Return its shard and its key."""
        return self._raw[URL], self._raw[KEY]

    def members(self, sample: int) -> dict[str, int]:
        """Return the size in bytes of each of its members."""
        return {name: len(data) for name, data in contents(self._raw).items()}

    def read(self, sample: int, extensions: Sequence[str]) -> dict[str, bytes]:
        """Return those of some members that it has."""
        return {name: data for name, data in contents(self._raw).items() if name in extensions}


@dataclass(frozen=True)
class StreamBatches(torch.utils.data.IterableDataset[Batch | Refusal]):
    """One rank's batches, for ever, without their epoch and step.

    A bad sample is left out, the next one takes its place, and it is named in ``Batch.bad``. What
    is random in samples depends on the seed, on where the stream begins, and on the number of
    processes that read it.

    Attributes:
        stream: what is read.
        decoding: how samples are decoded.
        layout: what a batch holds.
        rank: this process.
        batch_size: samples of this rank in a batch.
        start: the batch of training at which the stream begins.
    """

    stream: Stream
    decoding: Decoding
    layout: Layout
    rank: Rank
    batch_size: int
    start: int = 0

    def __iter__(self) -> Iterator[Batch | Refusal]:
        """Yield batches; in a worker, those of this worker."""
        worker = torch.utils.data.get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        ranks = self.rank.world_size
        # Every rank has a process among the first ones, in case there is not work for all.
        reader = Reader(number * ranks + self.rank.number, workers * ranks)
        try:
            yield from self._batches(reader)
        except UserError as error:
            yield Refusal(str(error))

    def _batches(self, reader: Reader) -> Iterator[Batch]:
        draws = partial(Draws, seed=self.stream.seed, epoch=self.start)
        rows: list[Sample] = []
        bad: list[BadSample] = []
        on_end: Counter[bool] = Counter()
        passing = PassingSample()
        samples = SampleSet([(passing, self.stream.members)])
        for place, raw in enumerate(self.stream.samples(reader, start=self.start)):
            number = place * reader.total + reader.number
            passing.hold(raw)
            try:
                decoded = decode_sample(
                    samples, number, self.decoding, draws=partial(draws, sample=number)
                )
            except BadMemberError as error:
                bad.append(_describe(raw, number, error))
                on_end[bad[-1].missing] += 1
                if on_end[False] >= _MOST_BAD or on_end[True] >= _MOST_MISSING:
                    raise UserError(
                        f"{on_end.total():,} samples on end can't be used; the last: "
                        f"{passing.named(number)}: {error}"
                    ) from error
                continue
            on_end.clear()
            rows.append(decoded)
            if len(rows) == self.batch_size:
                yield collate(rows, self.layout, bad=bad, draws=draws)
                rows, bad = [], []


def _describe(raw: Mapping[str, Any], number: int, error: BadMemberError) -> BadSample:
    return BadSample(
        shard=raw[URL],
        key=raw[KEY],
        member=error.member,
        reason=error.reason,
        replaced_by="",
        index=number,
        missing=isinstance(error, MissingInputError),
    )
