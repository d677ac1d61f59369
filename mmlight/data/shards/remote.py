"""A shard in a remote store, and its copy on the local disk."""

import errno
import hashlib
import os
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mmlight.data.shards import url as urls
from mmlight.data.shards.cache import ShardCache, locked_part, put_in_place, touch
from mmlight.data.shards.fsspec_store import FsspecStore
from mmlight.data.shards.http_store import HttpStore
from mmlight.data.shards.s3_store import S3Store
from mmlight.data.shards.store import (
    Found,
    MissingError,
    Patience,
    RefusedError,
    Store,
    TransientError,
    retried,
)
from mmlight.errors import UserError

NUM_THREADS = 32
# Of one folder; fewer are asked for one by one.
_MIN_TO_LIST = 4
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_stores: dict[tuple[int, str], Store] = {}
_opening = threading.Lock()


def store_of(url: str) -> Store:
    """Return the store of a URL, one for each process: connections don't outlive a fork."""
    scheme = urls.scheme(url)
    kind = "http" if scheme in urls.WEB else scheme
    name = os.getpid(), kind
    if name not in _stores:
        with _opening:
            if name not in _stores:
                _stores[name] = _connect(kind)
    return _stores[name]


def _connect(kind: str) -> Store:
    if kind == "http":
        return HttpStore()
    return S3Store() if kind == "s3" else FsspecStore(kind)


@dataclass(frozen=True)
class Remote:
    """A shard, or a file beside one, as it was found when the run began.

    Attributes:
        url: where it is; printed without what only its owner may know.
        num_bytes: its size.
        version: its etag or its time; empty where the store tells neither.
        cache: where its copy lies.
    """

    url: str
    num_bytes: int
    version: str
    cache: ShardCache

    def __str__(self) -> str:
        return urls.shown(self.url)

    def __repr__(self) -> str:
        return f"Remote({self!s})"

    @property
    def name(self) -> str:
        """The last part of its path."""
        return urls.name(self.url)

    @property
    def key(self) -> str:
        """What names it among all objects, as 32 hex digits."""
        return urls.key(self.url)

    @property
    def full_name(self) -> str:
        """What is printed of it, and a hash of what is not where that matters."""
        plain = str(self)
        if plain == self.url:
            return plain
        return plain if urls.key(plain) == self.key else f"{plain}#{self.key[:8]}"

    def place(self, suffix: str = ".tar") -> Path:
        """Return where its copy, or what belongs to it, lies in the cache."""
        return self.cache.place(self.key, self.version, self.num_bytes, suffix)

    def fetch(self, *, sha256: str | None = None, kept: Collection[str] = ()) -> Path:
        """Return its copy, which is downloaded if it is not there.

        Args:
            sha256: of its bytes, if that is known: compared after a download.
            kept: names in the cache that must stay when room is made.

        Raises:
            UserError: it was replaced, it is gone, its store refuses it or gives nothing for too
                long, or the disk is full.
        """
        final = self.place()
        try:
            while not touch(final):
                with locked_part(final) as part:
                    if part is not None:
                        self._download(part, sha256, kept)
                        put_in_place(final, part)
        except OSError as error:
            raise UserError(
                f"shard {self} can't be kept in {final.parent}: {error.strerror or error}; "
                "data.cache.folder names another folder, max_gb how much may be in it"
            ) from error
        return final

    def drop(self) -> None:
        """Remove its copy."""
        self.place().unlink(missing_ok=True)

    def replaced(self) -> UserError:
        """Return the error of another object in its place."""
        return UserError(
            f"shard {self} was replaced since this run began (its size or version is another); "
            "start the run again"
        )

    def _download(self, part: int, sha256: str | None, kept: Collection[str]) -> None:
        if self.num_bytes > self.cache.max_bytes:
            raise UserError(
                f"shard {self} has {self.num_bytes / 1e9:.3g} GB, more than data.cache.max_gb "
                f"({self.cache.max_gb:g}); raise it"
            )
        if not self.cache.make_room(kept=kept):
            self.cache.make_room()
        digest = hashlib.sha256()
        for attempt in (1, 2):
            digest = _digest(part, self.num_bytes)
            self._complete(part, digest)
            if sha256 is None or digest.hexdigest() == sha256:
                return
            os.ftruncate(part, 0)
            # What was there may have been damaged, or the way: once more, from the beginning.
            if attempt == 2:
                raise UserError(
                    f"shard {self} is not what its index says (its sha256 is another): it was "
                    "replaced, or damaged; index it again with `mmlight shards index --rebuild`"
                )

    def _complete(self, part: int, digest: Any) -> None:
        store = store_of(self.url)
        patience = Patience(store, f"shard {self}", patience_s=self.cache.patience_s)
        position = os.fstat(part).st_size
        while position < self.num_bytes:
            try:
                stream = store.read(self.url, position, self.num_bytes)
                if not _same(self, stream.found):
                    raise self.replaced()
                for chunk in stream.chunks:
                    self._write(part, chunk, position)
                    digest.update(chunk)
                    position += len(chunk)
                    patience.progress()
            except (TransientError, MissingError, RefusedError) as error:
                patience.after(error)

    def _write(self, part: int, chunk: bytes, position: int) -> None:
        done = 0
        while done < len(chunk):
            try:
                done += os.pwrite(part, chunk[done:], position + done)
            except OSError as error:
                left = self.num_bytes - position - done
                if error.errno not in _FULL or not self.cache.make_room(on_disk=left):
                    raise


def _same(shard: Remote, found: Found) -> bool:
    is_same = not found.version or not shard.version or found.version == shard.version
    return is_same and found.num_bytes == shard.num_bytes


def _digest(part: int, num_bytes: int) -> Any:
    """Return the running hash of what a part holds; of one that is too long nothing is kept."""
    digest = hashlib.sha256()
    if os.fstat(part).st_size > num_bytes:
        os.ftruncate(part, 0)
    position = 0
    while data := os.pread(part, 1 << 20, position):
        digest.update(data)
        position += len(data)
    return digest


def read_start(url: str, most: int, *, cache: ShardCache) -> bytes | None:
    """Return the first bytes of an object, all if it has fewer; None where there is none.

    A bucket that may not be listed refuses what it has not: that is none, too.

    Raises:
        UserError: the store gives nothing for too long.
    """
    store = store_of(url)

    def attempt() -> bytes | None:
        try:
            stream = store.read(url, 0, most)
            wanted = min(most, stream.found.num_bytes)
            data = bytearray()
            while len(data) < wanted:
                data += next(stream.chunks)
            return bytes(data[:wanted])
        except (MissingError, RefusedError):
            return None
        except StopIteration:
            raise TransientError("the answer ends early") from None

    return retried(store, urls.shown(url), attempt, patience_s=cache.patience_s)


def write(url: str, content: bytes, *, cache: ShardCache) -> None:
    """Put an object in place.

    Raises:
        UserError: the store does not take it.
    """
    store = store_of(url)
    retried(store, urls.shown(url), lambda: store.write(url, content), patience_s=cache.patience_s)


def find_all(given: Sequence[str], *, cache: ShardCache) -> list[Remote]:
    """Return objects by their URLs, in order; of stores that list, many of one folder at once.

    Raises:
        UserError: one is not there, or its store does not answer.
    """
    known: dict[str, Found] = {}
    groups: dict[str, list[str]] = {}
    for url in given:
        groups.setdefault(url.rpartition("/")[0], []).append(url)
    for group in groups.values():
        if len(group) >= _MIN_TO_LIST and store_of(group[0]).can_list:
            try:
                there = {found.url: found for found in listing(_beginning(group), cache)}
            except UserError as error:
                if isinstance(error.__cause__, RefusedError):  # it may be read, but not listed
                    continue
                raise
            if lost := next((url for url in group if url not in there), None):
                raise UserError(f"shard {urls.shown(lost)}: there is no such object")
            known |= there

    def find(url: str) -> Remote:
        found = known.get(url)
        if found is None:
            store = store_of(url)
            found = retried(
                store,
                f"shard {urls.shown(url)}",
                lambda: store.find(url),
                patience_s=cache.patience_s,
            )
        return Remote(url, found.num_bytes, found.version, cache)

    return list(in_threads(find, given))


def _beginning(texts: Sequence[str]) -> str:
    first, last = min(texts), max(texts)
    pairs = enumerate(zip(first, last, strict=False))
    return first[: next((place for place, (a, b) in pairs if a != b), len(first))]


def listing(prefix: str, cache: ShardCache) -> Iterator[Found]:
    """Yield all objects whose URL begins so.

    Raises:
        UserError: the store can't be listed, refuses it, or gives nothing for too long.
    """
    store = store_of(prefix)
    token = ""
    while True:
        found, token = retried(
            store,
            f"shards {urls.shown(prefix)}",
            partial(store.page, prefix, token),
            patience_s=cache.patience_s,
        )
        yield from found
        if not token:
            return


def in_threads(action: Any, items: Iterable[Any]) -> Iterator[Any]:
    """Yield what an action returns for each item, in order: stores answer slowly."""
    items = list(items)
    if len(items) < 2:
        yield from map(action, items)
        return
    with ThreadPoolExecutor(min(NUM_THREADS, len(items))) as threads:
        yield from threads.map(action, items)


def as_json(shard: Remote) -> dict[str, Any]:
    """Return a shard for a process of ours; it may hold secrets, so it goes through a pipe."""
    return asdict(shard)


def from_json(value: dict[str, Any]) -> Remote:
    """Return the shard that `as_json` tells of."""
    return Remote(**(value | {"cache": ShardCache(**value["cache"])}))
