"""Samples of a tar file that is read in order, by webdataset's grouping of members.

webdataset's own way from bytes to members is not taken: it ends in silence at a header that it
can't read, as if the shard were shorter. The walk is that of indexed shards, with its refusals.
"""

import zlib
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any

from mmlight.data.shards import seal
from mmlight.data.shards.byte_stream import Source, chunks_of, shown
from mmlight.data.shards.index import DEFAULT_MAX_MEMBER_BYTES
from mmlight.data.shards.tar import (
    BLOCK,
    SEAL_RECORD,
    comes_twice,
    cut_short,
    place_in_sample,
    split_name,
    walk_headers,
)
from mmlight.errors import UserError

# Of zeros behind an archive: GNU tar's largest records. What inflates to more has no end.
_MAX_ZEROS = 2048 * BLOCK
# Of what is wanted: a pattern of frames may fit any number of members.
_MAX_SAMPLE_BYTES = 1 << 30
# What webdataset's pipeline calls a member's name, its data, its shard and a sample's key.
NAME, DATA, URL, KEY = "fname", "data", "__url__", "__key__"


def read_members(
    source: Source, *, wanted: Container[str], patience_s: float
) -> Iterator[dict[str, Any]]:
    """Yield the members of a tar file, or of several behind one another, as webdataset does.

    That is a dictionary for each, and an empty one at the end of each tar. Those that are not
    wanted are passed over, and have no data.

    Raises:
        UserError: the shard is damaged. One that `mmlight` packed says at its end whether its
            members are those that were packed.
    """
    file = _InOrder(chunks_of(source, patience_s=patience_s))
    shard = shown(source)
    if not file.peek(1):
        raise UserError(f"shard {shard}: it is empty; download or pack it again")
    while file.peek(1):
        yield from _archive(shard, file, wanted)
        yield {}


def group(members: Iterable[dict[str, Any]], *, wanted: Container[str]) -> Iterator[Any]:
    """Group members into samples: the key, the shard, and the members that are wanted."""
    from webdataset.tariterators import group_by_keys

    found: Iterator[Any] = group_by_keys(members, keys=split_name, suffixes=wanted)
    return found


def contents(sample: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the members of a sample."""
    return {name: data for name, data in sample.items() if name not in (KEY, URL)}


def _archive(shard: str, file: "_InOrder", wanted: Container[str]) -> Iterator[dict[str, Any]]:
    first = file.peek(2 * BLOCK)
    sealed = seal.of_blocks(shard, first[:BLOCK], first[BLOCK:], b"")
    start = file.position
    packed: list[tuple[str, int, int]] = []
    sample: tuple[str, set[str]] = "", set()
    num_bytes = 0
    walk = walk_headers(shard, file.read_some, start=start)
    while True:
        try:
            member, typeflag = next(walk)
        except StopIteration as stop:
            end: int = stop.value
            break
        parts = place_in_sample(shard, member, typeflag, max_member_bytes=DEFAULT_MAX_MEMBER_BYTES)
        if parts is None:
            continue
        key, extension = parts
        if sample[0] != key:
            sample, num_bytes = (key, set()), 0
        is_wanted = extension in wanted and extension not in (KEY, URL)
        data = b""
        if is_wanted or sealed is not None:
            data = file.read_some(member.offset, member.size)
            if len(data) < member.size:
                raise cut_short(shard, member.name, offset=file.position)
        if is_wanted:
            if extension in sample[1]:
                raise comes_twice(shard, member, key=key, extension=extension)
            sample[1].add(extension)
            num_bytes += member.size
            if num_bytes > _MAX_SAMPLE_BYTES:
                raise UserError(
                    f"shard {shard}: the members of sample '{key}' have more than "
                    f"{_MAX_SAMPLE_BYTES >> 20} MiB together; pack it again in smaller samples"
                )
        if sealed is not None:
            packed.append((member.name, member.size, zlib.crc32(data)))
        if extension not in (KEY, URL):  # webdataset has these of its own in a sample
            yield {NAME: member.name, DATA: data if is_wanted else b"", URL: shard}
    last = _pass_over_zeros(shard, file, end)
    if sealed is None:
        seal.of_blocks(shard, b"", b"", last)
    elif sealed != seal.digest(packed):
        raise seal.broken(shard)


def _pass_over_zeros(shard: str, file: "_InOrder", end: int) -> bytes:
    """Go to what comes behind an archive; return the last block, if it is that of a seal."""
    while block := file.peek(BLOCK):
        if block.startswith(SEAL_RECORD):
            return file.read_some(file.position, BLOCK)
        if block.count(0) < len(block):
            if len(block) < BLOCK:
                raise UserError(f"shard {shard}: data behind its end at byte {end}; pack it again")
            break
        file.read_some(file.position, len(block))
        if file.position - end > _MAX_ZEROS:
            raise UserError(
                f"shard {shard}: zeros without an end, from byte {end} on; download it again"
            )
    return b""


class _InOrder:
    """Bytes at places that never go back."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._left = chunks, memoryview(b"")
        self.position = 0

    def peek(self, size: int) -> bytes:
        """Return the next bytes, fewer at the end, without going on."""
        while len(self._left) < size and (chunk := next(self._chunks, b"")):
            self._left = memoryview(bytes(self._left) + chunk if self._left else chunk)
        return bytes(self._left[:size])

    def read_some(self, offset: int, size: int) -> bytes:
        """Return bytes from a place on, fewer where the file ends."""
        self._skip(offset - self.position)
        parts = []
        while size and (part := self._take(size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _skip(self, size: int) -> None:
        while size > 0 and (part := self._take(size)):
            size -= len(part)

    def _take(self, size: int) -> memoryview:
        if not self._left:
            self._left = memoryview(next(self._chunks, b""))
        part = self._left[:size]
        self._left = self._left[size:]
        self.position += len(part)
        return part
