"""Files that others wrote, read within bounds: nothing waits for them or fills memory."""

import codecs
import errno
import json
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmlight.errors import UserError

MIB = 1 << 20
# What Notepad and Excel write before a text; that of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
MARK = "\ufeff"


def encoding_of(head: bytes) -> str:
    """Return the encoding that a byte-order mark tells; without one it is UTF-8.

    Args:
        head: the first bytes of a text, four or more where it has them.
    """
    return next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8")


def decode_text(data: bytes) -> str:
    """Return a text without the byte-order mark that tells its encoding.

    Raises:
        UnicodeDecodeError: it is in no encoding of Unicode.
    """
    return data.decode(encoding_of(data[:4]))


def split_lines(text: str) -> list[str]:
    """Return the lines of a text, each without a byte-order mark: joined files have several.

    `str.splitlines` breaks at ten characters more, which no editor counts as the end of a line.
    """
    lines = re.split(r"\r\n|\n|\r", text)
    return [line.removeprefix(MARK) for line in (lines if lines[-1] else lines[:-1])]


def read_text_file(path: str | Path, *, what: str, largest: int) -> str:
    """Return the content of a regular file of UTF-8 text, or of UTF-16 with a byte-order mark.

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
        return decode_text(data)
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


# Python's own limit differs between versions, and what walks a value later has others.
_MAX_DEPTH = 100


def parse_json(text: bytes | str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is none, an object has a key twice, or its lists and objects are nested more
            than 100 deep.
    """
    too_deep = f"JSON that is nested more than {_MAX_DEPTH} deep"
    try:
        value = json.loads(text, object_pairs_hook=unique_keys)
    except RecursionError:
        raise ValueError(too_deep) from None
    brackets: tuple[Any, Any] = ("[", "{") if isinstance(text, str) else (b"[", b"{")
    level = [value] if sum(map(text.count, brackets)) > _MAX_DEPTH else []
    for _ in range(_MAX_DEPTH + 1):
        level = [inner for outer in level for inner in _within(outer)]
    if level:
        raise ValueError(too_deep)
    return value


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON.

    Raises:
        ValueError: it has a key twice.
    """
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"JSON whose key '{twice[:40]}' comes twice")
    return value


def _within(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
