"""The file that holds one shard's index: its place, its format, how it is written and read.

A head of 24 bytes, a summary as JSON, and the columns of `IndexRows` one after another. Summary and
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
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from mmlight.data.shards import index_rows, remote
from mmlight.data.shards import url as urls
from mmlight.data.shards.index_rows import Counts, IndexRows
from mmlight.data.shards.remote import Remote
from mmlight.data.shards.storage import Shard
from mmlight.errors import UserError

FORMAT = 2
_MAGIC = b"mmlight index"
# Magic, format, length of the summary, its crc32.
_HEAD = struct.Struct("<14sHII")
# Read at once: a summary with some dozens of extensions fits.
_FIRST_READ = 4096
_SUFFIX, _SUMMARY_SUFFIX = ".index", ".summary"
# Of a store's word on how long something is, too much to take.
_LARGEST, _LARGEST_SUMMARY = 1 << 32, 1 << 20


class DamagedIndexError(Exception):
    """An index that is not as it was written."""


class OldIndexError(DamagedIndexError):
    """An index of another version of the format."""


@dataclass(frozen=True)
class ShardIndex:
    """Summary of one shard's index; `rows` reads the rest from disk.

    Attributes:
        path: the shard.
        index_path: its index file; of a remote shard the copy in the cache, fetched when rows are
            needed.
        num_samples: samples in the shard.
        num_bytes: the shard's size.
        mtime_ns: the shard's modification time when it was indexed; 0 of a remote shard.
        sha256: of the shard's bytes.
        extensions: how many samples have a member with each extension, in order of appearance.
        largest_member: bytes of the largest member.
        num_ignored: members that belong to no sample (hidden, without extension, metadata).
        num_members: members of all samples.
        num_key_bytes: UTF-8 bytes of all keys.
        rows_crc32: of what `rows` reads.
    """

    path: Shard
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

    def rows(self) -> IndexRows:
        """Read the index of every sample.

        Raises:
            DamagedIndexError: the index is gone or damaged.
            UserError: it is that of another content by now.
        """
        try:
            if isinstance(self.path, Remote) and not self.index_path.exists():
                _fetch_whole(self.path, self.index_path)
            with open(self.index_path, "rb", buffering=0) as file:
                now, start = _read_summary(file.fileno(), self.path, self.index_path)
                content = os.pread(file.fileno(), now.counts().num_bytes(), start)
        except OSError as error:
            raise DamagedIndexError(error.strerror) from error
        if now.sha256 != self.sha256:
            raise UserError(f"shard {self.path} changed while it was in use; start the run again")
        if zlib.crc32(content) != now.rows_crc32:
            raise DamagedIndexError("its checksum is another")
        try:
            return index_rows.from_bytes(
                content, now.counts(), extensions=list(now.extensions), shard_bytes=now.num_bytes
            )
        except ValueError as error:
            raise DamagedIndexError(str(error)) from error

    def counts(self) -> Counts:
        """Return what the length of the rows depends on."""
        return Counts(self.num_samples, self.num_members, self.num_key_bytes)


_SUMMARY = {field.name: field.type for field in fields(ShardIndex)[2:]}


def places(shard: Shard) -> Iterator[Path]:
    """Yield where the index of a shard may lie, best first."""
    if isinstance(shard, Remote):
        yield shard.place(_SUFFIX)
        return
    name = f"{shard.name}{_SUFFIX}"
    everywhere = os.environ.get("MMLIGHT_INDEX_DIR")
    if not everywhere:
        yield shard.with_name(name)
    absolute = os.fsencode(os.path.abspath(shard))
    folder = Path(everywhere) if everywhere else Path.home() / ".cache" / "mmlight" / "index"
    yield folder / f"{hashlib.sha256(absolute).hexdigest()[:32]}-{name}"


def load(shard: Shard) -> list[ShardIndex]:
    """Return the readable indexes of a shard, up to date or not, best place first."""
    found = []
    for place in places(shard):
        try:
            found.append(read(shard, place))
        except (OSError, DamagedIndexError):
            continue  # absent, damaged or of another format: it will be written anew
    return found


def read(shard: Shard, place: Path) -> ShardIndex:
    """Read the summary of an index.

    Raises:
        OSError: there is none.
        DamagedIndexError: it is damaged or of another format.
    """
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        if isinstance(shard, Remote):
            return _read_remote(shard)
        raise
    try:
        return _read_summary(descriptor, shard, place)[0]
    finally:
        os.close(descriptor)


def remote_url(shard: Remote) -> str:
    """Return the URL of the index beside a shard."""
    return urls.beside(shard.url, _SUFFIX)


def _read_remote(shard: Remote) -> ShardIndex:
    """Return the summary of the index beside a remote shard, from the cache if it is there."""
    place = shard.place(_SUMMARY_SUFFIX)
    with suppress(OSError, DamagedIndexError):
        return _parse(place.read_bytes(), shard)[0]
    return fetch_summary(shard)


def fetch_summary(shard: Remote) -> ShardIndex:
    """Fetch the summary of the index beside a remote shard, and keep it in the cache.

    Raises:
        OSError: there is none.
        DamagedIndexError: it is damaged, of another format, or of another shard.
    """
    block = remote.read_start(remote_url(shard), _FIRST_READ, cache=shard.cache)
    if block is None:
        raise FileNotFoundError(f"no index beside {shard}")
    if len(block) >= _HEAD.size and (length := _HEAD.unpack_from(block)[2]) < _LARGEST_SUMMARY:
        if _HEAD.size + length > len(block):
            url = remote_url(shard)
            block = remote.read_start(url, _HEAD.size + length, cache=shard.cache) or b""
    index, start = _parse(block, shard)
    if index.num_bytes != shard.num_bytes:
        raise OldIndexError("of another shard")
    _write_whole(shard.place(_SUMMARY_SUFFIX), block[:start], sync=False)
    return index


def _fetch_whole(shard: Remote, place: Path) -> None:
    content = remote.read_start(remote_url(shard), _LARGEST, cache=shard.cache)
    if content is None:
        raise FileNotFoundError(f"the index beside {shard} is gone")
    _write_whole(place, content, sync=False)


def store(
    shard: Shard,
    *,
    keys: Sequence[str],
    columns: Mapping[str, Sequence[float]],
    summary: dict[str, Any],
) -> ShardIndex:
    """Write a shard's index beside it or, where that can't be done, into the cache folder.

    The summary holds the fields of `ShardIndex` that keys and columns can't tell.
    """
    rows, counts = index_rows.to_bytes(keys, columns)
    summary = summary | {
        "num_samples": counts.samples,
        "num_members": counts.members,
        "num_key_bytes": counts.key_bytes,
        "rows_crc32": zlib.crc32(rows),
    }
    text = json.dumps(summary).encode()
    head = _HEAD.pack(_MAGIC, FORMAT, len(text), zlib.crc32(text))
    problems = []
    for place in places(shard):
        try:
            if isinstance(shard, Remote) or place.parent != shard.parent:
                place.parent.mkdir(parents=True, exist_ok=True)
            # By its mode too: root could write, but whoever took the right away meant it.
            elif not shard.parent.stat().st_mode & 0o222:
                problems.append(f"{place.parent}: read-only")
                continue
            _write_whole(place, head + text + rows)
        except OSError as error:  # a read-only folder or a full disk: the next place may do
            problems.append(f"{place.parent}: {error.strerror or error}")
        else:
            return ShardIndex(path=shard, index_path=place, **summary)
    raise UserError(
        f"the index of shard {shard} can't be stored ({'; '.join(problems)}); "
        "set MMLIGHT_INDEX_DIR to a writable folder"
    )


def _write_whole(place: Path, content: bytes, *, sync: bool = True) -> None:
    """Put a file in place at once: others see the old one or the new one.

    What is merely a copy need not be on the disk when it has its name: damage is found later.
    """
    temporary = place.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(temporary, place)
    finally:
        temporary.unlink(missing_ok=True)


def _read_summary(descriptor: int, shard: Shard, place: Path) -> tuple[ShardIndex, int]:
    """Return the summary and where the rows begin; the file must be as long as it says."""
    num_bytes = os.fstat(descriptor).st_size
    block = os.pread(descriptor, _FIRST_READ, 0)
    if len(block) >= _HEAD.size:
        start = _HEAD.size + _HEAD.unpack_from(block)[2]
        if len(block) < start <= num_bytes:
            block = os.pread(descriptor, start, 0)
    index, start = _parse(block, shard, place)
    if start + index.counts().num_bytes() != num_bytes:
        raise DamagedIndexError("of another length than its summary says")
    return index, start


def _parse(block: bytes, shard: Shard, place: Path | None = None) -> tuple[ShardIndex, int]:
    """Return the summary at the beginning of an index, and where the rows begin."""
    if len(block) < _HEAD.size:
        raise DamagedIndexError("cut short")
    magic, version, length, crc32 = _HEAD.unpack_from(block)
    if (magic.rstrip(b"\0"), version) != (_MAGIC, FORMAT):
        raise OldIndexError("of another format")
    start = _HEAD.size + length
    if start > len(block):
        raise DamagedIndexError("cut short")
    text = block[_HEAD.size : start]
    if zlib.crc32(text) != crc32:
        raise DamagedIndexError("its checksum is another")
    try:
        summary = json.loads(text)
        place = place or next(places(shard))
        index = ShardIndex(path=shard, index_path=place, **summary)
    except (ValueError, TypeError, RecursionError) as error:
        raise DamagedIndexError("its summary lacks something") from error
    # Whoever made it may have made its checksum, too.
    if not all(_is_a(getattr(index, name), kind) for name, kind in _SUMMARY.items()):
        raise DamagedIndexError("its summary holds something else")
    if not index.num_samples:
        raise DamagedIndexError("of another length than its summary says")
    if isinstance(shard, Remote):  # it may have been built where the shard lay on a disk
        index = replace(index, mtime_ns=0)
    return index, start


def _is_a(value: object, kind: Any) -> bool:
    if kind is int:
        return type(value) is int and 0 <= value < 2**63
    if kind is str:
        return isinstance(value, str)
    return isinstance(value, dict) and all(_is_a(count, int) for count in value.values())
