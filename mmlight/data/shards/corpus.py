"""Many shards seen as one sequence of samples, any of which can be read at once."""

import itertools
import os
import threading
import time
import zlib
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from hashlib import sha256
from typing import Any, ClassVar

import numpy as np

from mmlight.data.shards import index
from mmlight.data.shards.index_file import DamagedIndexError, ShardIndex
from mmlight.data.shards.index_rows import IndexRows
from mmlight.data.shards.remote import Remote, in_threads
from mmlight.data.shards.storage import OpenShard, Shard, State, real_name
from mmlight.errors import UserError
from mmlight.terminal import one_line

_MAX_OPEN_FILES = 128
_SWEEP_S = 1.0
# Rows of recently used shards stay in memory: about 60 bytes a sample, so some millions of them.
_MAX_ROWS_BYTES = 128 << 20
# What `read_run` holds at once.
_MAX_RUN_BYTES = 16 << 20


class ChecksumError(OSError):
    """A member whose bytes are not those that were indexed.

    Attributes:
        member: its extension.
    """

    def __init__(self, member: str, *, shard: Shard, key: str) -> None:
        super().__init__(
            f"member '.{member}' of sample '{key}' is not what was indexed (its checksum is "
            f"another): shard {shard} is damaged"
        )
        self.member = member


class Corpus:
    """Samples of all shards in order; sample numbers run from 0 to ``len(corpus) - 1``.

    It keeps a few numbers per shard and reads the index of a shard when first needed, so it stays
    small, and what goes to a worker process is little more than a list of paths. Reading is safe
    in threads and after fork or spawn.

    Attributes:
        has_shards: whether there are any; plain files lie in none.
    """

    has_shards: ClassVar[bool] = True

    def __init__(
        self,
        indexes: Iterable[ShardIndex],
        *,
        kept: Sequence[np.ndarray | None] | None = None,
        verify: bool = True,
    ) -> None:
        """Join shards.

        Args:
            indexes: as `mmlight.data.shards.index.load_or_build` returns them.
            kept: for each shard the rows that are samples of this corpus, ascending; None for all.
            verify: compare every member that is read with its checksum in the index.
        """
        self.verify = verify
        self.shards: list[ShardIndex] = list(indexes)
        self._kept = [None] * len(self.shards) if kept is None else list(kept)
        if self.has_shards and not self.shards:
            raise UserError("a corpus needs at least one shard")
        self.shard_sizes = np.array(
            [
                shard.num_samples if rows is None else len(rows)
                for shard, rows in zip(self.shards, self._kept, strict=True)
            ],
            np.int64,
        )
        self.starts = np.concatenate([[0], np.cumsum(self.shard_sizes)])
        self._names = _names(self.shards, self._kept)
        self._reset()

    @classmethod
    def joined(cls, corpora: Sequence["Corpus"]) -> "Corpus":
        """Return one corpus of several, one after another."""
        return cls(
            [shard for corpus in corpora for shard in corpus.shards],
            kept=[rows for corpus in corpora for rows in corpus._kept],
            verify=all(corpus.verify for corpus in corpora),
        )

    def subset(self, numbers: np.ndarray) -> "Corpus":
        """Return the corpus of some samples, ascending; shards without any are left out."""
        bounds = np.searchsorted(numbers, self.starts)
        shards, kept = [], []
        for shard, (first, last) in enumerate(itertools.pairwise(bounds.tolist())):
            if first < last:
                rows = numbers[first:last] - self.starts[shard]
                before = self._kept[shard]
                shards.append(self.shards[shard])
                kept.append(rows if before is None else before[rows])
        return Corpus(shards, kept=kept, verify=self.verify)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def locate(self, sample: int) -> tuple[int, int]:
        """Return the shard's number and the row in it of a sample."""
        if not 0 <= sample < len(self):
            raise IndexError(f"sample {sample} of {len(self)}")
        shard = int(self.starts.searchsorted(sample, side="right")) - 1
        row = int(sample - self.starts[shard])
        kept = self._kept[shard]
        return shard, row if kept is None else int(kept[row])

    def key(self, sample: int) -> str:
        """Return ``shard-name/sample-key``, which no other sample of this corpus has."""
        shard, row = self.locate(sample)
        return f"{self._names[shard]}/{self._rows(shard).keys[row]}"

    def origin(self, sample: int) -> tuple[str, str]:
        """Return the path of a sample's shard and the sample's key in it."""
        shard, row = self.locate(sample)
        return str(self.shards[shard].path), self._rows(shard).keys[row]

    def folder(self, sample: int) -> str | None:
        """Return the local folder of a sample's shard; None of a remote one."""
        path = self.shards[self.locate(sample)[0]].path
        return None if isinstance(path, Remote) else str(path.parent)

    def named(self, sample: int) -> str:
        """Return how messages name a sample: its key and its shard."""
        path, key = self.origin(sample)
        return f"sample {key} of {path}"

    def at_hand(self) -> np.ndarray | None:
        """Return the samples that are read without a download, ascending; None for all.

        Those of the first shard are among them, so that there are some.
        """
        is_far = [
            isinstance(shard.path, Remote) and not shard.path.place().exists()
            for shard in self.shards[1:]
        ]
        if not any(is_far):
            return None
        near = [number for number, far in enumerate([False, *is_far]) if not far]
        return np.concatenate([np.arange(self.starts[n], self.starts[n + 1]) for n in near])

    def extensions(self) -> dict[str, int]:
        """Return how many samples have a member with each extension."""
        total: Counter[str] = Counter()
        for number, (shard, rows) in enumerate(zip(self.shards, self._kept, strict=True)):
            total.update(shard.extensions if rows is None else _count(self._load(number), rows))
        return dict(total)

    def members(self, sample: int) -> dict[str, int]:
        """Return the size in bytes of each member of a sample, by extension."""
        shard, row = self.locate(sample)
        return {name: size for name, _, size, _ in self._members(shard, row)}

    @cached_property
    def durations(self) -> np.ndarray:
        """Seconds of each sample's first sound, float32; nan where it has none."""
        return np.concatenate([rows.duration_s[kept] for rows, kept in self._tables()])

    @cached_property
    def image_sizes(self) -> np.ndarray:
        """Width and height of each sample's first image, int32 (samples, 2); 0 without one."""
        return np.concatenate(
            [
                np.stack([rows.width[kept], rows.height[kept]], axis=1)
                for rows, kept in self._tables()
            ]
        )

    def largest_member(self, extensions: Sequence[str]) -> np.ndarray:
        """Return the bytes of the largest of some members of each sample, int64; 0 without any."""
        parts = []
        for rows, kept in self._tables():
            wanted = [n for n, name in enumerate(rows.extensions) if name in set(extensions)]
            sizes = np.where(np.isin(rows.extension, wanted), rows.size, 0)
            # No sample is without members, so no part between two starts is empty.
            parts.append(np.maximum.reduceat(sizes, rows.start[:-1])[kept])
        return np.concatenate(parts)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the shards' contents in their order, wherever they lie.

        Where only some samples of a shard are kept, it depends on which.
        """
        lines = []
        for shard, rows in zip(self.shards, self._kept, strict=True):
            part = "" if rows is None else f" {_digest(rows)}"
            lines.append(f"{shard.sha256} {shard.num_samples}{part}")
        return sha256("\n".join(lines).encode()).hexdigest()

    def contents(self) -> str:
        """Return a line for each shard: hash, hash of the rows that are kept, samples, name.

        The hashes are cut, and the second is ``-`` where all rows are kept.
        """
        lines = []
        for shard, rows, name in zip(self.shards, self._kept, self._names, strict=True):
            some = None if rows is None or len(rows) == shard.num_samples else rows
            size = shard.num_samples if some is None else len(some)
            lines.append(f"{shard.sha256[:16]} {_digest(some)[:16]} {size} {one_line(name)}")
        return "\n".join(lines)

    def read(self, sample: int, extensions: Sequence[str]) -> dict[str, bytes]:
        """Read those of some members that a sample has.

        Raises:
            ChecksumError: bytes of the shard have changed, but not its size nor its time.
            OSError: the disk failed or the shard is shorter than its index says.
            UserError: the shard was replaced or rewritten since it was indexed.
        """
        shard, row = self.locate(sample)
        wanted = set(extensions)
        return self._read(shard, row, [m for m in self._members(shard, row) if m[0] in wanted])

    def read_all(self, sample: int) -> dict[str, bytes]:
        """Read all members of a sample; see `read`."""
        shard, row = self.locate(sample)
        return self._read(shard, row, self._members(shard, row))

    def read_run(self, numbers: range) -> list[tuple[str, dict[str, bytes] | None]]:
        """Read samples that follow one another in a shard, all at once.

        Returns:
            The key of each and all its members; None in their place where they are damaged or many
            bytes, for `read_all`.
        """
        shard, first = self.locate(numbers[0])
        run = range(first, first + len(numbers))
        if self._kept[shard] is not None or run.stop > self.shards[shard].num_samples:
            raise ValueError(f"samples {numbers} do not follow one another in a shard")
        rows = self._rows(shard)
        keys, starts = rows.keys.run(run), rows.start[run.start : run.stop + 1]
        part = slice(starts[0], starts[-1])
        offsets, sizes = rows.offset[part], rows.size[part]
        begin = int(offsets.min())
        span = int((offsets + sizes).max()) - begin
        if span > _MAX_RUN_BYTES:
            return [(key, None) for key in keys]
        data = self._file(shard).read_some(begin, span)
        columns = (rows.extension[part], offsets - begin, sizes, rows.crc32[part])
        members = zip(*(column.tolist() for column in columns), strict=True)
        samples: list[tuple[str, dict[str, bytes] | None]] = []
        for key, count in zip(keys, np.diff(starts).tolist(), strict=True):
            contents: dict[str, bytes] | None = {}
            for extension, offset, size, crc32 in itertools.islice(members, count):
                member = data[offset : offset + size]
                if len(member) < size or (self.verify and zlib.crc32(member) != crc32):
                    contents = None
                elif contents is not None:
                    contents[rows.extensions[extension]] = member
            samples.append((key, contents))
        return samples

    def _members(self, shard: int, row: int) -> list[tuple[str, int, int, int]]:
        """Return (extension, offset, size, crc32) of a sample's members."""
        rows = self._rows(shard)
        part = slice(rows.start[row], rows.start[row + 1])
        names = [rows.extensions[number] for number in rows.extension[part].tolist()]
        columns = (column[part].tolist() for column in (rows.offset, rows.size, rows.crc32))
        return list(zip(names, *columns, strict=True))

    def _read(
        self, shard: int, row: int, members: Sequence[tuple[str, int, int, int]]
    ) -> dict[str, bytes]:
        if not members:
            return {}
        file = self._file(shard)
        contents = {}
        for name, offset, size, crc32 in members:
            data = contents[name] = file.read(offset, size)
            if self.verify and zlib.crc32(data) != crc32:
                data = contents[name] = self._again(shard, row, name, offset, size, crc32)
        return contents

    def _again(self, shard: int, row: int, name: str, offset: int, size: int, crc32: int) -> bytes:
        """Read a member that was wrong anew, from a new copy of a remote shard."""
        file, place = self._file(shard), self.shards[shard].path
        file.check_unchanged()
        if isinstance(place, Remote):
            with self._lock:
                self._open_files.pop(shard, None)
                place.drop()
            data = self._file(shard).read(offset, size)
            if zlib.crc32(data) == crc32:
                return data
        raise ChecksumError(name, shard=place, key=self._rows(shard).keys[row])

    def __getstate__(self) -> dict[str, Any]:
        return {"indexes": self.shards, "kept": self._kept, "verify": self.verify}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def _tables(self) -> Iterator[tuple[IndexRows, Any]]:
        """Yield each shard's index and which of its rows are kept."""
        far = [
            number
            for number, shard in enumerate(self.shards)
            if isinstance(shard.path, Remote) and not shard.index_path.exists()
        ]
        for _ in in_threads(lambda shard: self._load(shard).num_bytes, far):
            pass  # what is in the cache now
        for shard, kept in enumerate(self._kept):
            yield self._load(shard), slice(None) if kept is None else kept

    def _load(self, shard: int) -> IndexRows:
        try:
            return self.shards[shard].rows()
        except DamagedIndexError:
            self.shards[shard] = index.restore(self.shards[shard])
        try:
            return self.shards[shard].rows()
        except DamagedIndexError as error:
            path = self.shards[shard].index_path
            raise UserError(f"index {path} can't be read ({error}) though just written") from error

    def _reset(self) -> None:
        # Of this process alone: a lock that another thread held at the fork would never open.
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._open_files: OrderedDict[int, OpenShard] = OrderedDict()
        self._swept = 0.0
        self._loaded: OrderedDict[int, IndexRows] = OrderedDict()
        self._loaded_bytes = 0

    def _rows(self, shard: int) -> IndexRows:
        if self._process != os.getpid():
            self._reset()
        with self._lock:
            if rows := self._loaded.get(shard):
                self._loaded.move_to_end(shard)
                return rows
            rows = self._load(shard)
            self._loaded[shard] = rows
            self._loaded_bytes += rows.num_bytes
            while self._loaded_bytes > _MAX_ROWS_BYTES and len(self._loaded) > 1:
                self._loaded_bytes -= self._loaded.popitem(last=False)[1].num_bytes
            return rows

    def _file(self, shard: int) -> OpenShard:
        with self._lock:
            file = self._open_files.get(shard)
            if file is None:
                self._close_removed()
                file = self._open_files[shard] = _open(self.shards[shard])
                if len(self._open_files) > _MAX_OPEN_FILES:
                    self._open_files.popitem(last=False)
            self._open_files.move_to_end(shard)
            return file

    def _close_removed(self) -> None:
        """Close what was removed from the cache of remote shards: it takes room while open."""
        now = time.monotonic()
        if now > self._swept + _SWEEP_S:
            self._swept = now
            for number in [n for n, file in self._open_files.items() if file.is_removed]:
                del self._open_files[number]


def _digest(rows: np.ndarray | None) -> str:
    return "-" if rows is None else sha256(rows.astype("<i8").tobytes()).hexdigest()


def _open(shard: ShardIndex) -> OpenShard:
    """Open a shard.

    Raises:
        OSError: it can't be opened.
        UserError: it is not what was indexed, or can't be fetched.
    """
    file = OpenShard(shard.path, sha256=shard.sha256)
    now = file.state()
    if now != State(shard.num_bytes, shard.mtime_ns) and (
        # A shard that was merely touched, so that no clean-up takes it, is read once more.
        now.num_bytes != shard.num_bytes or file.digest() != shard.sha256
    ):
        raise file.changed()
    return file


def _count(rows: IndexRows, kept: np.ndarray) -> dict[str, int]:
    """Return how many of some rows have a member with each extension."""
    is_kept = np.zeros(len(rows.start) - 1, bool)
    is_kept[kept] = True
    of_member = np.repeat(is_kept, np.diff(rows.start))
    counts = np.bincount(rows.extension[of_member], minlength=len(rows.extensions)).tolist()
    return {name: count for name, count in zip(rows.extensions, counts, strict=True) if count}


def _names(shards: Sequence[ShardIndex], kept: Sequence[np.ndarray | None]) -> list[str]:
    """Name shards; one shard may come several times if each time with other rows of it."""
    rows_of: dict[str, list[np.ndarray | None]] = {}
    real_names = [real_name(shard.path) for shard in shards]
    for name, rows in zip(real_names, kept, strict=True):
        rows_of.setdefault(name, []).append(rows)
    for path, parts in rows_of.items():
        if len(parts) == 1:
            continue
        some = [rows for rows in parts if rows is not None]
        together = np.concatenate(some) if some else np.empty(0, np.int64)
        if len(some) < len(parts) or len(np.unique(together)) < len(together):
            raise UserError(
                f"the same shard comes twice with the same samples: {path}; name each once"
            )
    names = dict(zip(rows_of, _distinct_names(list(rows_of)), strict=True))
    return [names[name] for name in real_names]


def _distinct_names(paths: Sequence[str]) -> list[str]:
    """Name absolute paths by as many of their trailing parts as it takes to tell them apart."""
    last = [path.rpartition(os.sep)[2].removesuffix(".tar") for path in paths]
    if len(set(last)) == len(last):
        return last
    parts = [path.removesuffix(".tar").split(os.sep) for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return list(paths)
