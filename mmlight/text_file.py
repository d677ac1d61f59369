"""Text files that others wrote, read within bounds: nothing waits for them or fills memory."""

import os
import stat
from pathlib import Path

from mmlight.errors import UserError

MIB = 1 << 20


def read_text_file(path: str | Path, *, what: str, largest: int) -> str:
    """Return the content of a regular file of UTF-8 text.

    Args:
        path: the file, or a link to it.
        what: what it is for, such as ``config file x.yaml``; messages begin with it.
        largest: bytes; a file that holds more is refused before it is read.

    Raises:
        UserError: no such file, none that can be read, no regular file, too large, or not UTF-8.
    """
    try:
        # A pipe that nobody writes to would be waited for.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise UserError(f"{what}: {getattr(error, 'strerror', None) or error}") from error
    try:
        status = os.fstat(handle)
        if stat.S_ISDIR(status.st_mode):
            raise UserError(f"{what}: is a folder, not a file")
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{what}: is a device or a pipe, not a file")
        with open(handle, "rb", closefd=False) as file:
            # Files in /proc say that they are empty, whatever they hold.
            data = file.read(largest + 1) if status.st_size <= largest else b""
    except OSError as error:
        raise UserError(f"{what}: {error.strerror}") from error
    finally:
        os.close(handle)
    if max(status.st_size, len(data)) > largest:
        raise UserError(f"{what}: holds more than {largest / MIB:g} MiB, the most that is read")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{what}: not UTF-8 text") from error
