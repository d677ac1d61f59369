"""A shard as a file: its digest, its parts, and whether it is still what was indexed."""

import hashlib
import os
from pathlib import Path

from mmlight.data.shards.index_file import ShardIndex
from mmlight.errors import UserError


def digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_at(path: Path, descriptor: int, size: int, offset: int) -> bytes:
    """Read a part of an open shard.

    Raises:
        OSError: the disk failed or the shard is shorter.
    """
    data = os.pread(descriptor, size, offset)
    while len(data) < size:  # one call gives at most 2 GiB
        more = os.pread(descriptor, size - len(data), offset + len(data))
        if not more:
            raise OSError(f"shard {path} ended before byte {offset + size} while read")
        data += more
    return data


class ChecksumError(OSError):
    """A member whose bytes are not those that were indexed.

    Attributes:
        member: its extension.
    """

    def __init__(self, member: str, *, shard: Path, key: str) -> None:
        super().__init__(
            f"member '.{member}' of sample '{key}' is not what was indexed (its checksum is "
            f"another): shard {shard} is damaged"
        )
        self.member = member


class OpenShard:
    """An open shard; closed when the last thread that uses it lets go.

    Raises:
        OSError: it can't be opened.
        UserError: it is not what was indexed.
    """

    def __init__(self, shard: ShardIndex) -> None:
        self._descriptor = -1
        self._path = shard.path
        self._descriptor = os.open(shard.path, os.O_RDONLY | os.O_CLOEXEC)
        self._opened = self._state()
        indexed = (shard.num_bytes, shard.mtime_ns)
        if self._opened != indexed and (
            # A shard that was merely touched, so that no clean-up takes it, is read once more.
            self._opened[0] != shard.num_bytes or digest(shard.path) != shard.sha256
        ):
            raise self._changed()

    def read(self, offset: int, size: int) -> bytes:
        """Read bytes; see `read_at`."""
        return read_at(self._path, self._descriptor, size, offset)

    def check_unchanged(self) -> None:
        """Raise UserError if size or time have changed since it was opened."""
        if self._state() != self._opened:
            raise self._changed()

    def _state(self) -> tuple[int, int]:
        status = os.fstat(self._descriptor)
        return status.st_size, status.st_mtime_ns

    def _changed(self) -> UserError:
        return UserError(
            f"shard {self._path} has changed since it was indexed; start the run again when it is "
            "whole"
        )

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
