"""Files that others wrote, read within bounds: nothing waits for them or fills memory."""

import errno
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
        largest: bytes; a file that holds more is refused.

    Raises:
        UserError: no such file, none that can be read, no regular file, too large, or not UTF-8.
    """
    try:
        data = read_regular(path, most=largest + 1)
    except (OSError, ValueError) as error:
        raise UserError(f"{what}: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > largest:
        raise UserError(f"{what}: holds more than {largest / MIB:g} MiB, the most that is read")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{what}: not UTF-8 text") from error


def read_regular(path: str | Path, *, most: int, end: bool = False) -> bytes:
    """Return the bytes of a regular file, as many as are asked for.

    Args:
        path: the file, or a link to it.
        most: so many bytes at most.
        end: the last ones rather than the first.

    Raises:
        OSError: it cannot be read, or is a folder, a device or a pipe.
        ValueError: no file can have such a name.
    """
    # A pipe that nobody writes to would be waited for.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        status = os.fstat(handle)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, "is a folder, not a file", str(path))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is a device or a pipe, not a file", str(path))
        if end:
            begin = max(0, status.st_size - most)
            return os.pread(handle, status.st_size - begin, begin)
        size = status.st_size
        data = os.read(handle, min(most, size + 1))
        # One read may return less than there is, and files in /proc say that they are empty.
        while len(data) not in (size, most) and (more := os.read(handle, most - len(data))):
            data += more
        return data
    finally:
        os.close(handle)
