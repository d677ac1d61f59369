"""The folder on a local disk where shards of remote stores are kept while they are needed.

A file's name is made of the URL's hash and that of the version, so shards of equal names stay apart
and one that was replaced has another file. What has its name is whole: it is written as a part,
which is locked by whoever downloads, checked, flushed to the disk and renamed. A part that a killed
process left is continued. What was used longest ago goes first when room is needed.
"""

import errno
import fcntl
import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

from mmlight.errors import UserError
from mmlight.files import sync_folder

_DEFAULT = "~/.cache/mmlight/shards"
_SHARD, _PART = ".tar", ".part"
# A part that nobody went on with for so long is no use to anybody.
_OLD_PART_S = 2 * 24 * 3600


@dataclass(frozen=True)
class ShardCache:
    """Where shards of remote stores are kept, and how they are fetched.

    Attributes:
        folder: on a fast local disk; processes of a machine share it, and runs may. None takes
            ``MMLIGHT_SHARD_CACHE`` or else ``~/.cache/mmlight/shards``.
        max_gb: bytes it may hold, in 1e9; shards used longest ago are removed for others. An epoch
            goes fastest where it holds the shards of a window of all lanes, see the first lines of
            a run.
        downloads: shards that are fetched at a time ahead of their use, on each rank.
        patience_s: seconds to try on for while a store gives nothing at all.
    """

    folder: str | None = None
    max_gb: float = 100.0
    downloads: int = 4
    patience_s: float = 300.0

    def __post_init__(self) -> None:
        if not self.max_gb > 0:
            raise UserError(f"data.cache.max_gb is {self.max_gb}; it must be more than 0")
        if self.downloads < 1 or not self.patience_s >= 0:
            raise UserError(
                f"data.cache.downloads ({self.downloads}) must be 1 or more, and patience_s "
                f"({self.patience_s}) 0 or more"
            )

    @property
    def max_bytes(self) -> int:
        """The size limit in bytes."""
        return int(self.max_gb * 1e9)

    def path(self) -> Path:
        """Return the folder, which is made where it is missing.

        Raises:
            UserError: it can't be.
        """
        return _made(self.folder or os.environ.get("MMLIGHT_SHARD_CACHE") or _DEFAULT)

    def place(self, key: str, version: str, num_bytes: int, suffix: str = _SHARD) -> Path:
        """Return where a version of an object lies, or will."""
        tag = sha256(f"{version}\0{num_bytes}".encode()).hexdigest()[:16]
        return self.path() / f"{key}-{tag}-{num_bytes}{suffix}"

    def make_room(self, *, kept: Collection[str] = (), on_disk: int = 0) -> bool:
        """Remove what was used longest ago until the limit is kept, parts taken for whole.

        Args:
            kept: names of files that stay.
            on_disk: the disk is full, whatever the limit says: remove so many bytes in any case.

        Returns:
            Whether that could be done.
        """
        total, shards = 0, []
        for entry in os.scandir(self.path()):
            with suppress(FileNotFoundError):
                status = entry.stat()
                if entry.name.endswith(_SHARD):
                    total += status.st_size
                    if entry.name not in kept:
                        shards.append((status.st_mtime_ns, status.st_size, entry.path))
                elif entry.name.endswith(_PART):
                    if status.st_mtime < time.time() - _OLD_PART_S and _remove_part(entry.path):
                        continue
                    total += int(entry.name.removesuffix(_SHARD + _PART).rpartition("-")[2])
        excess = on_disk or total - self.max_bytes
        for _, size, path in sorted(shards):
            if excess <= 0:
                break
            with suppress(FileNotFoundError):
                os.unlink(path)
            excess -= size
        return excess <= 0


@cache
def _made(given: str) -> Path:
    folder = Path(given).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, "no right to write")
    except OSError as error:
        raise UserError(
            f"the cache of shards can't be in {folder}: {error.strerror}; set data.cache.folder to "
            "a folder of a local disk"
        ) from error
    return folder


@contextmanager
def locked_part(final: Path) -> Iterator[int | None]:
    """Yield the descriptor of a file's part, which no other process or thread writes meanwhile.

    It waits for whoever writes it. None where the file itself is there by then.
    """
    part = final.with_name(final.name + _PART)
    part.parent.mkdir(parents=True, exist_ok=True)  # whoever cleaned up may have removed it
    while True:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Another process may have renamed or removed it while this one waited.
            if _is_still(part, descriptor):
                if final.exists():
                    os.unlink(part)
                    yield None
                else:
                    yield descriptor
                return
        finally:
            os.close(descriptor)
        if final.exists():
            yield None
            return


def put_in_place(final: Path, descriptor: int) -> None:
    """Give a whole part its name, when it is on the disk."""
    os.fsync(descriptor)
    os.replace(final.with_name(final.name + _PART), final)
    sync_folder(final.parent)


def touch(path: Path) -> bool:
    """Note that a file is used; return whether it is there."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    except OSError:  # another user's: its time stays as it is
        return path.exists()
    return True


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    mine = os.fstat(descriptor)
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)


def _remove_part(path: str) -> bool:
    """Remove a part, unless it is being written."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)
        finally:
            os.close(descriptor)
    except OSError:
        return False
    return True
