"""The bytes of a shard in order, wherever they come from: a file, a pipe, a server.

A server may know neither ranges nor the length; compressed ones are decompressed on the way.
"""

import io
import itertools
import os
import select
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmlight.data.shards import url as urls
from mmlight.data.shards.remote import store_of
from mmlight.data.shards.storage import unreadable
from mmlight.data.shards.store import (
    CHUNK,
    Found,
    MissingError,
    Patience,
    RefusedError,
    TransientError,
)
from mmlight.data.shards.tar import COMPRESSED
from mmlight.errors import UserError

# What Arrow decompresses, piece by piece and in bounded memory; xz may ask for gigabytes.
_READ = ("gzip", "bzip2", "zstd")
_CODECS = {"bzip2": "bz2"}
_MAGIC_BYTES = max(map(len, COMPRESSED))

# A local path, or a URL.
Source = Path | str


def shown(source: Source) -> str:
    """Return how a source is printed: a URL without what only its owner may know."""
    return urls.shown(source) if isinstance(source, str) else str(source)


def is_pipe(source: Source) -> bool:
    """Return whether a source is a named pipe, whose bytes come once."""
    try:
        return isinstance(source, Path) and stat.S_ISFIFO(source.stat().st_mode)
    except OSError:
        return False


def chunks_of(source: Source, *, patience_s: float) -> Iterator[bytes]:
    """Yield the bytes of a tar file, compressed by gzip, bzip2, zstd or not at all.

    Args:
        source: where it is.
        patience_s: seconds to wait for while nothing comes.

    Raises:
        UserError: it can't be read, was replaced meanwhile, is damaged, or nothing comes for too
            long.
    """
    if isinstance(source, str):
        chunks = _of_store(source, patience_s)
    elif is_pipe(source):
        chunks = _of_pipe(source, patience_s)
    else:
        chunks = _of_file(source)
    head = b""
    while len(head) < _MAGIC_BYTES and (chunk := next(chunks, b"")):
        head += chunk
    chunks = itertools.chain([head] if head else [], chunks)
    kind = next((name for magic, name in COMPRESSED.items() if head.startswith(magic)), None)
    if kind is None:
        return chunks
    if kind not in _READ:
        raise UserError(
            f"shard {shown(source)}: compressed with {kind}, of which only {', '.join(_READ)} are "
            "read; decompress it, or compress it with one of these"
        )
    return _decompressed(chunks, source, kind)


def _of_file(path: Path) -> Iterator[bytes]:
    try:
        with open(path, "rb", buffering=0) as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except OSError as error:
        raise unreadable(path, error) from error


def _of_pipe(path: Path, patience_s: float) -> Iterator[bytes]:
    try:
        # Without waiting for a writer, which may never come.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while True:
            # Linux says nothing of a pipe that no writer has opened yet.
            if not poll.poll(patience_s * 1000):
                raise UserError(
                    f"pipe {path}: nothing comes out of it for {patience_s:g} s "
                    "(data.cache.patience_s); write more shards into it, or train for fewer steps"
                )
            try:
                chunk = os.read(descriptor, CHUNK)
            except BlockingIOError:
                continue
            if not chunk:
                return
            yield chunk
    finally:
        os.close(descriptor)


def _of_store(url: str, patience_s: float) -> Iterator[bytes]:
    store, what = store_of(url), f"shard {urls.shown(url)}"
    patience = Patience(store, what, patience_s=patience_s)
    first: Found | None = None
    position = 0
    while first is None or position != first.num_bytes:
        try:
            stream = store.whole(url, position)
            first = first or stream.found
            if _is_other(stream.found, first):
                raise UserError(f"{what} was replaced while it was read; start the run again")
            for chunk in stream.chunks:
                position += len(chunk)
                patience.progress()
                yield chunk
            return
        except (TransientError, MissingError, RefusedError) as error:
            patience.after(error)


def _is_other(found: Found, first: Found) -> bool:
    """Return whether an object was replaced, as far as answers tell size and version."""
    is_new = bool(found.version and first.version) and found.version != first.version
    are_sized = found.num_bytes >= 0 and first.num_bytes >= 0
    return is_new or (are_sized and found.num_bytes != first.num_bytes)


def _decompressed(chunks: Iterator[bytes], source: Source, kind: str) -> Iterator[bytes]:
    import pyarrow

    file = pyarrow.PythonFile(_File(chunks), mode="r")
    stream: Any = pyarrow.CompressedInputStream(file, _CODECS.get(kind, kind))
    try:
        while chunk := stream.read(CHUNK):
            yield chunk
    except OSError as error:
        raise UserError(
            f"shard {shown(source)}: its {kind} data are damaged or end early ({error}); download "
            "or pack it again"
        ) from error


class _File(io.RawIOBase):
    """Chunks as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._left = chunks, memoryview(b"")

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer; return how many bytes."""
        if not self._left:
            self._left = memoryview(next(self._chunks, b""))
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        return size
