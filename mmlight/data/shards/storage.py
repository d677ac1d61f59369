"""Where shards lie, on disks or in remote stores: one way to tell what one is, and to read it."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from mmlight.data.shards.remote import Remote
from mmlight.errors import UserError

# What names a shard: a local path, or an object of a store. Either has a `name`, and a text that
# may be printed.
Shard = Path | Remote


@dataclass(frozen=True)
class State:
    """What tells whether a shard is another than before.

    Attributes:
        num_bytes: its size.
        mtime_ns: the time of its last change; 0 of a remote one, whose version is part of where its
            copy and its index lie.
    """

    num_bytes: int
    mtime_ns: int


def state(shard: Shard) -> State:
    """Return the state of a shard, which for a remote one is that of the beginning of the run.

    Raises:
        UserError: it is not there, or can't be read.
    """
    if isinstance(shard, Remote):
        return State(shard.num_bytes, 0)
    try:
        status = shard.stat()
    except OSError as error:
        raise unreadable(shard, error) from error
    return State(status.st_size, status.st_mtime_ns)


def real_name(shard: Shard) -> str:
    """Return the full name of a shard, which no other one has."""
    return shard.full_name if isinstance(shard, Remote) else os.path.abspath(shard)


def unreadable(shard: Shard, error: OSError) -> UserError:
    """Return the error of a shard that the system does not give."""
    return UserError(f"shard {shard} can't be read: {error.strerror or error}")


def digest(shard: Shard) -> str:
    """Return the SHA-256 of a shard's bytes.

    Raises:
        OSError: it can't be read.
        UserError: it can't be fetched.
    """
    with OpenShard(shard) as file:
        return file.digest()


class OpenShard:
    """A shard that is read at any place; a remote one is fetched first.

    It is closed when the last thread that uses it lets go.
    """

    def __init__(self, shard: Shard, *, sha256: str | None = None) -> None:
        """Open a shard.

        Args:
            shard: its path or object.
            sha256: of its bytes, compared if it is downloaded now.

        Raises:
            OSError: it can't be opened.
            UserError: it can't be fetched.
        """
        self._descriptor = -1
        self.shard = shard
        self._descriptor = _open(shard, sha256)
        self._opened = self.state()

    def read(self, offset: int, size: int) -> bytes:
        """Read bytes.

        Raises:
            OSError: the disk failed or the shard is shorter.
        """
        data = os.pread(self._descriptor, size, offset)
        while len(data) < size:  # one call gives at most 2 GiB
            more = os.pread(self._descriptor, size - len(data), offset + len(data))
            if not more:
                raise OSError(f"shard {self.shard} ended before byte {offset + size} while read")
            data += more
        return data

    def read_some(self, offset: int, size: int) -> bytes:
        """Read bytes, fewer where it ends before.

        Raises:
            OSError: the disk failed.
        """
        return os.pread(self._descriptor, size, offset)

    def digest(self) -> str:
        """Return the SHA-256 of its bytes."""
        with open(self._descriptor, "rb", closefd=False) as file:
            file.seek(0)
            return hashlib.file_digest(file, "sha256").hexdigest()

    def state(self) -> State:
        """Return its state as it is now."""
        status = os.fstat(self._descriptor)
        mtime_ns = 0 if isinstance(self.shard, Remote) else status.st_mtime_ns
        return State(status.st_size, mtime_ns)

    def check_unchanged(self) -> None:
        """Raise UserError if size or time have changed since it was opened."""
        if self.state() != self._opened:
            raise self.changed()

    def changed(self) -> UserError:
        """Return the error of a shard that is another by now."""
        return UserError(
            f"shard {self.shard} has changed since it was indexed; start the run again when it is "
            "whole"
        )

    @property
    def is_removed(self) -> bool:
        """Whether it is a copy that has no name any more, and takes room while it is open."""
        return isinstance(self.shard, Remote) and os.fstat(self._descriptor).st_nlink == 0

    def __enter__(self) -> "OpenShard":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
        self._descriptor = -1

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


def _open(shard: Shard, sha256: str | None) -> int:
    if not isinstance(shard, Remote):
        return os.open(shard, os.O_RDONLY | os.O_CLOEXEC)
    while True:
        try:
            descriptor = os.open(shard.fetch(sha256=sha256), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # another process made room just now
        if os.fstat(descriptor).st_size == shard.num_bytes:
            return descriptor
        os.close(descriptor)
        shard.drop()  # a disk that lost a part of it
