"""Checksums of files, compared before anything in them is used.

A checkpoint in one file is a zip archive, which has a CRC-32 of each record; torch does not look at
it. A folder has a list of its files' own (``checksums.json``).
"""

import functools
import json
import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

LIST = "checksums.json"
_CHUNK = 2**22
_LOCAL = struct.Struct("<4s5H3I2H")
_LOCAL_MARK, _FOOTER_MARK = b"PK\x03\x04", b"PK\x07\x08"
_END = b"PK\x05\x06" + bytes(18)
_HAS_FOOTER, _UTF8 = 0x8, 0x800


def archive_damage(path: Path) -> str | None:
    """Return what is wrong with an archive of ``torch.save``, or None.

    All of it is read: every byte that decides what is loaded is compared with its checksum or with
    its other copy (records are listed at the end, and each begins with what the list says of it).
    A process that loads a file twice reads it once for that.
    """
    return _archive_damage(str(path.absolute()), _stamp(path))


@functools.lru_cache(maxsize=64)
def _archive_damage(path: str, stamp: tuple[int, ...]) -> str | None:
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            return _first_problem(file, archive)
    except (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError, EOFError) as error:
        return f"is cut short or damaged ({str(error) or 'ends too early'})"


def _first_problem(file: BinaryIO, archive: zipfile.ZipFile) -> str | None:
    records = sorted(archive.infolist(), key=lambda record: record.header_offset)
    if not records or len({record.filename for record in records}) < len(records):
        return "is damaged: its list of records is not that of a checkpoint"
    place = 0
    for record in records:
        name = record.orig_filename
        if record.header_offset != place:
            return f"is damaged: {name!r} is not where the record before it ends"
        file.seek(place)
        header = _LOCAL.unpack(file.read(_LOCAL.size))
        mark, _, flags, kind, _, _, *sizes, of_name, of_extra = header
        encoding = "utf-8" if flags & _UTF8 else "cp437"
        known = (mark, flags, kind) == (_LOCAL_MARK, record.flag_bits, zipfile.ZIP_STORED)
        listed = (record.CRC, record.compress_size, record.file_size)
        if (
            not known
            or file.read(of_name) != name.encode(encoding)
            or (record.compress_type, listed[1]) != (zipfile.ZIP_STORED, listed[2])
            or not (flags & _HAS_FOOTER or tuple(sizes) == listed)
        ):
            return f"is damaged: the header of {name!r} is not what the list of records says"
        file.seek(of_extra, 1)
        if _crc(file, record.file_size) != record.CRC:
            return f"is damaged: {name!r} has not the checksum that it was written with"
        place = file.tell()
        if flags & _HAS_FOOTER:
            footer = next((one for one in _footers(*listed) if _follows(file, place, one)), None)
            if footer is None:
                return f"is damaged: after {name!r} stands not what the list of records says"
            place += len(footer)
    if place != archive.start_dir:
        return "is damaged: its list of records is not where the last one ends"
    file.seek(-len(_END), 2)
    if file.read(4) != _END[:4] or archive.comment:
        return "is damaged: something stands behind its list of records"
    return None


def _footers(crc: int, *sizes: int) -> list[bytes]:
    """Return what may follow a record: its checksum and sizes, of eight bytes or of four."""
    begin = _FOOTER_MARK + struct.pack("<I", crc)
    narrow = [begin + struct.pack("<2I", *sizes)] if max(sizes) < 2**32 else []
    return [begin + struct.pack("<2Q", *sizes), *narrow]


def _follows(file: BinaryIO, place: int, content: bytes) -> bool:
    file.seek(place)
    return file.read(len(content)) == content


def write_list(folder: Path, checksums: dict[str, dict[str, int]]) -> None:
    """Write the list of a folder's files.

    Args:
        folder: where.
        checksums: by the file's name, as `file_checksum` returns them.
    """
    (folder / LIST).write_text(json.dumps(checksums, indent=2) + "\n", encoding="utf-8")


def file_checksum(path: Path) -> dict[str, int]:
    """Return the size and the CRC-32 of a file; a second time for nothing, if it is the same."""
    stamp = _stamp(path)
    return {"bytes": path.stat().st_size, "crc32": _file_crc(str(path.absolute()), stamp)}


@functools.lru_cache(maxsize=4096)
def _file_crc(path: str, stamp: tuple[int, ...]) -> int:
    with open(path, "rb") as file:
        return _crc(file, Path(path).stat().st_size)


def folder_damage(folder: Path, *, names: Iterable[str]) -> str | None:
    """Return what is wrong with a folder's files, or None.

    Args:
        folder: a folder. Earlier versions wrote no list of checksums; then nothing is found.
        names: files that the list must hold.
    """
    path = folder / LIST
    if not path.is_file():
        return None
    try:
        listed: Any = json.loads(path.read_text(encoding="utf-8"))
        for name in dict.fromkeys([*names, *listed]):
            file = folder / name
            if name not in listed or Path(name).name != name or not file.is_file():
                return f"{name!r} is missing, or {LIST} is damaged"
            if file.stat().st_size != listed[name]["bytes"]:
                return f"{name} is cut short, or has grown"
            if file_checksum(file) != listed[name]:
                return f"{name} is damaged: it has not the checksum that it was written with"
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        return f"{LIST} cannot be read ({error})"
    return None


def _stamp(path: Path) -> tuple[int, ...]:
    """Return what changes when a file does."""
    about = path.stat()
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


def _crc(file: BinaryIO, size: int) -> int:
    crc = 0
    while size > 0:
        chunk = file.read(min(size, _CHUNK))
        if not chunk:
            raise EOFError
        crc = zlib.crc32(chunk, crc)
        size -= len(chunk)
    return crc
