"""The file that holds one shard's index: its place, its format, how it is written and read.

A head of 24 bytes, a summary as JSON, and the columns of `Rows` one after another. Summary and
columns bear a checksum each, so that asking what is in a shard reads one block of it, and damage is
found before any of it is used. Nothing in it is unpickled, and no number in it decides how much
memory is taken: the columns must fill the file exactly.
"""

import hashlib
import json
import os
import secrets
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, overload

import numpy as np

from mmlight.errors import UserError

FORMAT = 2
_MAGIC = b"mmlight index"
# Magic, format, length of the summary, its crc32.
_HEAD = struct.Struct("<14sHII")
# Read at once: a summary with some dozens of extensions fits.
_FIRST_READ = 4096
# Columns in their order, with what there is one of: a sample or a member.
_COLUMNS = {
    "duration_s": ("<f4", "num_samples"),
    "width": ("<i4", "num_samples"),
    "height": ("<i4", "num_samples"),
    "members_each": ("<i4", "num_samples"),
    "key_bytes_each": ("<i4", "num_samples"),
    "extension": ("<i4", "num_members"),
    "crc32": ("<u4", "num_members"),
    "offset": ("<i8", "num_members"),
    "size": ("<i8", "num_members"),
}


class DamagedIndexError(Exception):
    """An index that is not as it was written."""


class OldIndexError(DamagedIndexError):
    """An index of another version of the format."""


class Keys(Sequence[str]):
    """Sample keys, kept as the bytes of all and where each ends."""

    def __init__(self, text: bytes, ends: np.ndarray) -> None:
        self._text = text
        self._starts = np.concatenate([[0], ends])

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        row = range(len(self))[row]
        text = self._text[self._starts[row] : self._starts[row + 1]]
        return text.decode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class Rows:
    """The samples of one shard; members of sample `i` are entries ``start[i]:start[i + 1]``.

    Attributes:
        keys: sample keys.
        extensions: names that `extension` numbers.
        start: int64, one more than samples.
        extension: int32 per member, a place in `extensions`.
        offset: int64 per member, where its data begin in the shard.
        size: int64 per member, bytes.
        crc32: uint32 per member, of its data.
        duration_s: float32 per sample, of its first sound; nan without one.
        width: int32 per sample, of its first image in pixels; 0 without one.
        height: likewise.
        num_bytes: memory that all this takes.
    """

    keys: Keys
    extensions: tuple[str, ...]
    start: np.ndarray
    extension: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    crc32: np.ndarray
    duration_s: np.ndarray
    width: np.ndarray
    height: np.ndarray
    num_bytes: int


@dataclass(frozen=True)
class ShardIndex:
    """Summary of one shard's index; `rows` reads the rest from disk.

    Attributes:
        path: the shard.
        index_path: its index file.
        num_samples: samples in the shard.
        num_bytes: the shard's size.
        mtime_ns: the shard's modification time when it was indexed.
        sha256: of the shard's bytes.
        extensions: how many samples have a member with each extension, in order of appearance.
        largest_member: bytes of the largest member.
        num_ignored: members that belong to no sample (hidden, without extension, metadata).
        num_members: members of all samples.
        num_key_bytes: UTF-8 bytes of all keys.
        rows_crc32: of what `rows` reads.
    """

    path: Path
    index_path: Path
    num_samples: int
    num_bytes: int
    mtime_ns: int
    sha256: str
    extensions: dict[str, int]
    largest_member: int
    num_ignored: int
    num_members: int
    num_key_bytes: int
    rows_crc32: int

    def rows(self) -> Rows:
        """Read the index of every sample.

        Raises:
            DamagedIndexError: the index is gone or damaged.
            UserError: it is that of another content by now.
        """
        try:
            with open(self.index_path, "rb", buffering=0) as file:
                now, start = _read_summary(file.fileno(), self.path, self.index_path)
                content = os.pread(file.fileno(), now._rows_bytes(), start)
        except OSError as error:
            raise DamagedIndexError(error.strerror) from error
        if now.sha256 != self.sha256:
            raise UserError(f"shard {self.path} changed while it was in use; start the run again")
        if zlib.crc32(content) != now.rows_crc32:
            raise DamagedIndexError("its checksum is another")
        return _parse_rows(content, now)

    def _rows_bytes(self) -> int:
        counts = (getattr(self, of) * np.dtype(kind).itemsize for kind, of in _COLUMNS.values())
        return self.num_key_bytes + sum(counts)


_SUMMARY = {field.name: field.type for field in fields(ShardIndex)[2:]}


def places(shard: Path, *, cache_dir: Path | None) -> Iterator[Path]:
    """Yield where the index of a shard may lie, best first."""
    name = f"{shard.name}.index"
    everywhere = os.environ.get("MMLIGHT_INDEX_DIR")
    if not everywhere:
        yield shard.with_name(name)
    absolute = os.fsencode(os.path.abspath(shard))
    unique = f"{hashlib.sha256(absolute).hexdigest()[:32]}-{name}"
    if everywhere:
        yield Path(everywhere) / unique
    else:
        yield (cache_dir or Path.home() / ".cache" / "mmlight" / "index") / unique


def load(shard: Path, *, cache_dir: Path | None = None) -> list[ShardIndex]:
    """Return the readable indexes of a shard, up to date or not, best place first."""
    found = []
    for place in places(shard, cache_dir=cache_dir):
        try:
            found.append(read(shard, place))
        except (OSError, DamagedIndexError):
            continue  # absent, damaged or of another format: it will be written anew
    return found


def read(shard: Path, place: Path) -> ShardIndex:
    """Read the summary of an index.

    Raises:
        OSError: there is none.
        DamagedIndexError: it is damaged or of another format.
    """
    descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _read_summary(descriptor, shard, place)[0]
    finally:
        os.close(descriptor)


def store(
    shard: Path,
    *,
    keys: Sequence[str],
    columns: Mapping[str, Sequence[float]],
    summary: dict[str, Any],
    cache_dir: Path | None,
) -> ShardIndex:
    """Write a shard's index beside it or, where that can't be done, into the cache folder.

    Args:
        shard: its path.
        keys: of the samples.
        columns: the values of `Rows`, with `members_each` of the samples in place of `start`.
        summary: the fields of `ShardIndex` that can't be told from these.
        cache_dir: see `places`.
    """
    texts = [key.encode("utf-8", "backslashreplace") for key in keys]
    given = {"key_bytes_each": [len(text) for text in texts], **columns}
    arrays = [np.asarray(given[name], kind) for name, (kind, _) in _COLUMNS.items()]
    rows = b"".join([*(array.tobytes() for array in arrays), *texts])
    summary = summary | {
        "num_samples": len(keys),
        "num_members": len(columns["size"]),
        "num_key_bytes": sum(map(len, texts)),
        "rows_crc32": zlib.crc32(rows),
    }
    text = json.dumps(summary).encode()
    head = _HEAD.pack(_MAGIC, FORMAT, len(text), zlib.crc32(text))
    problems = []
    for place in places(shard, cache_dir=cache_dir):
        # By its mode too: root could write, but whoever took the right away meant it.
        if place.parent == shard.parent and not shard.parent.stat().st_mode & 0o222:
            problems.append(f"{place.parent}: read-only")
            continue
        try:
            if place.parent != shard.parent:
                place.parent.mkdir(parents=True, exist_ok=True)
            _write_whole(place, head + text + rows)
        except OSError as error:  # a read-only folder or a full disk: the next place may do
            problems.append(f"{place.parent}: {error.strerror or error}")
        else:
            return ShardIndex(path=shard, index_path=place, **summary)
    raise UserError(
        f"the index of shard {shard} can't be stored ({'; '.join(problems)}); "
        "set MMLIGHT_INDEX_DIR to a writable folder"
    )


def _write_whole(place: Path, content: bytes) -> None:
    """Put a file in place at once: others see the old one or the new one."""
    temporary = place.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, place)
    finally:
        temporary.unlink(missing_ok=True)


def _read_summary(descriptor: int, shard: Path, place: Path) -> tuple[ShardIndex, int]:
    """Return the summary and where the rows begin; the file must be as long as it says."""
    num_bytes = os.fstat(descriptor).st_size
    block = os.pread(descriptor, _FIRST_READ, 0)
    if len(block) < _HEAD.size:
        raise DamagedIndexError("cut short")
    magic, version, length, crc32 = _HEAD.unpack_from(block)
    if (magic.rstrip(b"\0"), version) != (_MAGIC, FORMAT):
        raise OldIndexError("of another format")
    start = _HEAD.size + length
    if start > num_bytes:
        raise DamagedIndexError("cut short")
    text = block[_HEAD.size : start]
    if start > len(block):
        text = os.pread(descriptor, length, _HEAD.size)
    if zlib.crc32(text) != crc32:
        raise DamagedIndexError("its checksum is another")
    try:
        summary = json.loads(text)
        index = ShardIndex(path=shard, index_path=place, **summary)
    except (ValueError, TypeError, RecursionError) as error:
        raise DamagedIndexError("its summary lacks something") from error
    # Whoever made it may have made its checksum, too.
    if not all(_is_a(getattr(index, name), kind) for name, kind in _SUMMARY.items()):
        raise DamagedIndexError("its summary holds something else")
    if start + index._rows_bytes() != num_bytes or not index.num_samples:
        raise DamagedIndexError("of another length than its summary says")
    return index, start


def _is_a(value: object, kind: Any) -> bool:
    if kind is int:
        return type(value) is int and 0 <= value < 2**63
    if kind is str:
        return isinstance(value, str)
    return isinstance(value, dict) and all(_is_a(count, int) for count in value.values())


def _parse_rows(content: bytes, index: ShardIndex) -> Rows:
    column: dict[str, np.ndarray] = {}
    offset = 0
    for name, (kind, of) in _COLUMNS.items():
        column[name] = np.frombuffer(content, kind, getattr(index, of), offset)
        offset += column[name].nbytes
    members_each, key_bytes_each = column.pop("members_each"), column.pop("key_bytes_each")
    start = np.concatenate([[0], np.cumsum(members_each, dtype=np.int64)])
    ends = np.cumsum(key_bytes_each, dtype=np.int64)
    extension, first, size = column["extension"], column["offset"], column["size"]
    # Of a file that was made by somebody else, all may be as the checksum says, and wrong.
    is_sound = (
        members_each.min() > 0
        and start[-1] == index.num_members
        and key_bytes_each.min() >= 0
        and ends[-1] == index.num_key_bytes
        and 0 <= extension.min()
        and extension.max() < len(index.extensions)
        and min(first.min(), size.min()) >= 0
        and (first <= index.num_bytes).all()
        and (size <= index.num_bytes - first).all()
    )
    if not is_sound:
        raise DamagedIndexError("it points outside the shard")
    return Rows(
        keys=Keys(content[offset:], ends),
        extensions=tuple(index.extensions),
        start=start,
        num_bytes=len(content) + start.nbytes + ends.nbytes,
        **column,
    )
