"""Which samples one process of one rank reads of a stream, in which order."""

import itertools
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmlight.data.decode.draw import Draws
from mmlight.data.members import Contents, Members, extensions_of, parse_source
from mmlight.data.order.cursor import permutation
from mmlight.data.shards.byte_stream import Source, is_pipe, shown
from mmlight.data.shards.tar_stream import URL, contents, group, read_members
from mmlight.errors import UserError, nearest

# A word of the Philox counter that no order of indexed samples uses.
_PASS = 7
# Samples that are read before the first is given; then every second one is kept until there are
# as many as shall be.
_BEGIN = 100
# Of members that wait in one process, whatever their number.
_MOST_BYTES = 256 << 20
# So many samples tell whether a member is there at all.
_LOOKED_AT = 1_000
_MOST_KNOWN = 1_000


@dataclass(frozen=True)
class Reader:
    """One process of all that read a stream.

    Attributes:
        number: of this process.
        total: all of them, on all ranks.
    """

    number: int
    total: int

    def share(self, sources: Sequence[Source], order: Sequence[int]) -> list["Part"]:
        """Return what to read of sources in this order, each in a part of its own or whole.

        Where there are fewer sources than processes, several read the same one and take turns with
        its samples. Of a pipe each byte comes once, so it belongs to one process for good.
        """
        if any(map(is_pipe, sources)):
            return [Part(source) for source in sources[self.number :: self.total]]
        if len(sources) >= self.total:
            return [Part(sources[place]) for place in order[self.number :: self.total]]
        turn, place = divmod(self.number, len(sources))
        turns = (self.total - 1 - place) // len(sources) + 1
        return [Part(sources[order[place]], turn, turns)]


@dataclass(frozen=True)
class Part:
    """Every `turns`-th sample of a source, from sample `turn` on."""

    source: Source
    turn: int = 0
    turns: int = 1


@dataclass(frozen=True)
class Stream:
    """What is read.

    Attributes:
        sources: shards.
        members: how their members are mapped.
        seed: of the order.
        window: how many samples are shuffled together.
        patience_s: how long to wait for a source that gives nothing.
    """

    sources: tuple[Source, ...]
    members: Members
    seed: int
    window: int
    patience_s: float

    def samples(self, reader: Reader, *, start: int) -> Iterator[Mapping[str, Any]]:
        """Yield raw samples for ever: all shards pass by again and again, in other orders.

        Pipes pass by again when somebody writes into them again.

        Args:
            reader: this process.
            start: changes the order; the batch of training at which it begins.

        Raises:
            UserError: a shard is damaged or can't be read, or has none of the members.
        """
        from webdataset import DataPipeline

        draws = Draws("shuffle", seed=self.seed, epoch=start, sample=reader.number)
        wanted = _Wanted(self.members)
        seen = _Seen(self.members)

        def read(parts: list[Part]) -> Iterator[Mapping[str, Any]]:
            for part in parts:
                members = read_members(part.source, wanted=wanted, patience_s=self.patience_s)
                samples = group(members, wanted=wanted)
                yield from itertools.islice(samples, part.turn, None, part.turns)

        def shuffle(samples: Iterator[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
            return _shuffled(map(seen.look, samples), draws, window=self.window)

        for number in itertools.count():
            order = permutation(
                len(self.sources), seed=self.seed, epoch=number, use=_PASS, place=(start, 0)
            )
            parts = reader.share(self.sources, order.tolist())
            if not parts:
                return
            is_empty = True
            for sample in DataPipeline(lambda parts=parts: parts, read, shuffle):
                is_empty = False
                yield sample
            if is_empty:
                raise UserError(
                    f"data.train: {shown(parts[0].source)} has fewer samples than there are "
                    f"processes that share it ({parts[0].turns}); lower data.num_workers"
                )
            seen.end()


def _shuffled(
    samples: Iterator[Mapping[str, Any]], draws: Draws, *, window: int
) -> Iterator[Mapping[str, Any]]:
    """Yield samples in another order, from a window that is bounded in bytes, too."""
    waiting: list[Mapping[str, Any]] = []
    num_bytes = 0

    def drawn() -> Mapping[str, Any]:
        place = draws.integer(len(waiting))
        waiting[place], waiting[-1] = waiting[-1], waiting[place]
        return waiting.pop()

    for number, sample in enumerate(samples):
        waiting.append(sample)
        num_bytes += _size(sample)
        is_next = len(waiting) >= _BEGIN and number % 2 == 1
        while waiting and (is_next or len(waiting) >= window or num_bytes >= _MOST_BYTES):
            is_next = False
            one = drawn()
            num_bytes -= _size(one)
            yield one
    while waiting:
        yield drawn()


def _size(sample: Mapping[str, Any]) -> int:
    return sum(map(len, contents(sample).values()))


class _Wanted(Container[str]):
    """The extensions that members are mapped by, patterns included."""

    def __init__(self, members: Members) -> None:
        self._sources = members.sources()
        self._known: dict[object, bool] = {}

    def __contains__(self, extension: object) -> bool:
        if extension not in self._known:
            name = str(extension)
            if len(self._known) >= _MOST_KNOWN:  # a shard may have a new one for each member
                self._known.clear()
            self._known[extension] = name in extensions_of(self._sources, [name])
        return self._known[extension]


class _Seen:
    """Sees to it that samples have what is mapped, before many of them are passed over."""

    def __init__(self, members: Members) -> None:
        self._missing = members.groups()
        self._others: dict[str, None] = {}
        self._count = 0
        self._last = ""

    def look(self, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        """Note what a sample has, and return it."""
        if self._missing and self._count < _LOOKED_AT:
            self._count += 1
            self._last = sample[URL]
            raw = contents(sample)
            self._others |= dict.fromkeys(raw)
            known = Contents(raw)
            for entry, sources in list(self._missing.items()):
                if any(_has(known, source) for source in sources):
                    del self._missing[entry]
            if self._count == _LOOKED_AT:
                self.end()
        return sample

    def end(self) -> None:
        """Refuse what no sample had.

        Raises:
            UserError: naming the entry.
        """
        for entry, sources in self._missing.items():
            there = ", ".join(self._others) or "none of what is mapped"
            raise UserError(
                f"data.members.{entry}: none of the first {self._count:,} samples of data.train "
                f"(the last of {self._last}) has {' or '.join(sources)}; they have {there}"
                f"{nearest(parse_source(sources[0])[0], list(self._others))}"
            )


def _has(known: Contents, source: str) -> bool:
    if parse_source(source)[1] is None:
        return any(name in known.raw for name in extensions_of([source], known.raw))
    try:
        return known.value(source) is not None
    except ValueError:  # a bad sample: it is counted when its turn comes
        return False
