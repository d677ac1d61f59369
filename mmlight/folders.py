"""Folders that are filled: by one process at a time, and gone after an error if they were new."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mmlight.errors import UserError


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """Make a folder; after an error, remove what was made for it and is empty.

    Args:
        folder: with those above it, made where they are not there.
    """
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for path in new:
                path.rmdir()
        raise


@contextmanager
def alone(lock: Path, *, busy: str) -> Iterator[None]:
    """Hold a file that tells other processes, and remove it in the end.

    File systems without locks let everybody in.

    Args:
        lock: the file.
        busy: what to say where another process holds it.

    Raises:
        UserError: another process holds it.
    """
    while True:
        file = lock.open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise UserError(busy) from error
        except OSError:
            break
        # Whoever held it may just have removed it.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                break
        file.close()
    with file:
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
