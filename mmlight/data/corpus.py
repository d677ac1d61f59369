"""Many shards seen as one sequence of samples, any of which can be read at once."""

import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from mmlight.data.index_file import Rows, ShardIndex
from mmlight.errors import UserError

_MAX_OPEN_FILES = 128
# Rows of recently used shards stay in memory: about 60 bytes a sample, so some millions of them.
_MAX_ROWS_BYTES = 128 << 20


class Corpus:
    """Samples of all shards in order; sample numbers run from 0 to ``len(corpus) - 1``.

    It keeps a few numbers per shard and reads the index of a shard when first needed, so it stays
    small, and what goes to a worker process is little more than a list of paths. Reading is safe
    in threads and after fork or spawn.
    """

    def __init__(self, indexes: Iterable[ShardIndex]) -> None:
        """Join shards.

        Args:
            indexes: as `mmlight.data.index.load_or_build` returns them.
        """
        self.shards: list[ShardIndex] = list(indexes)
        if not self.shards:
            raise UserError("a corpus needs at least one shard")
        self.shard_sizes = np.array([shard.num_samples for shard in self.shards], np.int64)
        self._start = np.concatenate([[0], np.cumsum(self.shard_sizes)])
        self._names = _distinct_names([shard.path for shard in self.shards])
        self._reset()

    def __len__(self) -> int:
        return int(self._start[-1])

    def locate(self, sample: int) -> tuple[int, int]:
        """Return the shard's number and the row in it of a sample."""
        if not 0 <= sample < len(self):
            raise IndexError(f"sample {sample} of {len(self)}")
        shard = int(np.searchsorted(self._start, sample, side="right")) - 1
        return shard, int(sample - self._start[shard])

    def key(self, sample: int) -> str:
        """Return ``shard-name/sample-key``, which no other sample of this corpus has."""
        shard, row = self.locate(sample)
        return f"{self._names[shard]}/{self._rows(shard).keys[row].as_py()}"

    def extensions(self) -> dict[str, int]:
        """Return how many samples have a member with each extension."""
        total: Counter[str] = Counter()
        for shard in self.shards:
            total.update(shard.extensions)
        return dict(total)

    def members(self, sample: int) -> dict[str, int]:
        """Return the size in bytes of each member of a sample, by extension."""
        shard, row = self.locate(sample)
        return {name: size for name, _, size in _members(self._rows(shard), row)}

    @cached_property
    def durations(self) -> np.ndarray:
        """Seconds of each sample's first sound, float32; nan where it has none."""
        return np.concatenate([shard.rows().duration_s for shard in self.shards])

    @cached_property
    def image_sizes(self) -> np.ndarray:
        """Width and height of each sample's first image, int32 (samples, 2); 0 without one."""
        rows = (shard.rows() for shard in self.shards)
        return np.concatenate([np.stack([part.width, part.height], axis=1) for part in rows])

    def fingerprint(self) -> str:
        """Return the SHA-256 of the shards' contents in their order, wherever they lie."""
        text = "\n".join(f"{shard.sha256} {shard.num_samples}" for shard in self.shards)
        return sha256(text.encode()).hexdigest()

    def read(self, sample: int, extensions: Sequence[str]) -> dict[str, bytes]:
        """Read members of a sample.

        Args:
            sample: its number.
            extensions: the members wanted; those the sample lacks are left out of the result.

        Raises:
            OSError: the disk failed or the shard is shorter than its index says.
            UserError: the shard was replaced by another since the run began.
        """
        shard, row = self.locate(sample)
        wanted = set(extensions)
        found = [m for m in _members(self._rows(shard), row) if m[0] in wanted]
        if not found:
            return {}
        file = self._file(shard)
        return {name: file.read(offset, size) for name, offset, size in found}

    def __getstate__(self) -> dict[str, Any]:
        return {"shards": self.shards}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["shards"])  # type: ignore[misc]

    def _reset(self) -> None:
        # Of this process alone: a lock that another thread held at the fork would never open.
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._open_files: OrderedDict[int, _File] = OrderedDict()
        self._loaded: OrderedDict[int, Rows] = OrderedDict()
        self._loaded_bytes = 0

    def _rows(self, shard: int) -> Rows:
        if self._process != os.getpid():
            self._reset()
        with self._lock:
            if rows := self._loaded.get(shard):
                self._loaded.move_to_end(shard)
                return rows
            rows = self.shards[shard].rows()
            self._loaded[shard] = rows
            self._loaded_bytes += rows.num_bytes
            while self._loaded_bytes > _MAX_ROWS_BYTES and len(self._loaded) > 1:
                self._loaded_bytes -= self._loaded.popitem(last=False)[1].num_bytes
            return rows

    def _file(self, shard: int) -> "_File":
        with self._lock:
            file = self._open_files.get(shard)
            if file is None:
                file = self._open_files[shard] = _File(self.shards[shard])
                if len(self._open_files) > _MAX_OPEN_FILES:
                    self._open_files.popitem(last=False)
            self._open_files.move_to_end(shard)
            return file


class _File:
    """An open shard; closed when the last thread that uses it lets go."""

    def __init__(self, shard: ShardIndex) -> None:
        self._descriptor = -1
        self._path = shard.path
        self._descriptor = os.open(shard.path, os.O_RDONLY | os.O_CLOEXEC)
        size = os.fstat(self._descriptor).st_size
        if size != shard.num_bytes:
            raise UserError(
                f"shard {shard.path} has {size} bytes, {shard.num_bytes} when it was indexed; "
                "start the run again"
            )

    def read(self, offset: int, size: int) -> bytes:
        data = os.pread(self._descriptor, size, offset)
        while len(data) < size:  # one call gives at most 2 GiB
            more = os.pread(self._descriptor, size - len(data), offset + len(data))
            if not more:
                raise OSError(f"shard {self._path} ended before byte {offset + size} while read")
            data += more
        return data

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


def _members(rows: Rows, row: int) -> list[tuple[str, int, int]]:
    """Return (extension, offset, size) of a sample's members."""
    part = slice(rows.start[row], rows.start[row + 1])
    names = (rows.extensions[i] for i in rows.extension[part])
    return list(zip(names, rows.offset[part].tolist(), rows.size[part].tolist(), strict=True))


def _distinct_names(paths: Sequence[Path]) -> list[str]:
    """Name shards by as many trailing parts of their paths as it takes to tell them apart."""
    absolute = [PurePath(os.path.abspath(path)) for path in paths]
    parts = [(*path.parts[:-1], path.name.removesuffix(".tar")) for path in absolute]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    if len(set(absolute)) < len(absolute):
        raise UserError("the same shard comes twice; each may be named once")
    return [str(path) for path in absolute]
