"""What a store of objects is: it tells size and version of one, lists, reads from a place on."""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

from mmlight.errors import UserError
from mmlight.terminal import note

CHUNK = 1 << 20
CONNECT_S, READ_S = 10, 60
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 15.0
# A server that is down this long is worth a line.
_SAID_AFTER_S = 10.0
# Of no use to anybody else, so that no run's random numbers change by a fault of the network.
_jitter = random.Random()

T = TypeVar("T")


class TransientError(Exception):
    """What may heal by itself: a busy server, a lost connection, a body that ends early."""


class MissingError(Exception):
    """There is no such object."""


class RefusedError(Exception):
    """What no waiting heals: credentials that are refused, a request that is not understood."""


@dataclass(frozen=True)
class Found:
    """An object: its URL, its size, and what changes when it is replaced (an etag or a time)."""

    url: str
    num_bytes: int
    version: str


@dataclass(frozen=True)
class Stream:
    """The bytes of an object from a place on; `found` is what the answer itself says of it."""

    found: Found
    chunks: Iterator[bytes]


def pieces(read: Callable[[int], bytes], skipped: int, wanted: int | None) -> Iterator[bytes]:
    """Yield `wanted` bytes of a body behind those that are skipped.

    Args:
        read: returns the next bytes, at most so many; none at the end.
        skipped: bytes in front, of a server that does not know ranges.
        wanted: how many are asked for; None for all, where nobody knows how many there are.

    Raises:
        TransientError: the body ends before.
    """
    while wanted is None or wanted > 0:
        data = read(min(CHUNK, skipped or wanted or CHUNK))
        if not data:
            if wanted is None and not skipped:
                return
            raise TransientError("the answer ends early")
        if skipped:
            skipped -= len(data)
            continue
        if wanted is not None:
            wanted -= len(data)
        yield data


class Store(Protocol):
    """Objects by URL. Every method raises `TransientError`, `MissingError` or `RefusedError`."""

    can_list: bool
    can_write: bool

    def find(self, url: str) -> Found:
        """Return what an object is."""
        ...

    def page(self, prefix: str, token: str) -> tuple[list[Found], str]:
        """Return objects whose URL begins so, and what asks for the next page, if there is one."""
        ...

    def read(self, url: str, start: int, stop: int) -> Stream:
        """Return bytes `start` to `stop`; a chain of answers may be shorter, never in silence."""
        ...

    def whole(self, url: str, start: int) -> Stream:
        """Return all bytes from a place on, in as few requests as can be."""
        ...

    def write(self, url: str, content: bytes) -> None:
        """Put an object in place whole."""
        ...

    def refresh(self) -> None:
        """Read credentials anew."""
        ...


class Patience:
    """Waits longer after each failure, with jitter; gives up when nothing comes for too long."""

    def __init__(self, store: Store, what: str, *, patience_s: float) -> None:
        self._store, self._what, self._patience_s = store, what, patience_s
        self.progress()
        self._refreshed = False

    def progress(self) -> None:
        """Note that something came: waiting begins anew."""
        self._since, self._tries, self._said = 0.0, 0, False

    def after(self, error: Exception) -> None:
        """Wait after a failure.

        Raises:
            UserError: it is one that waiting does not heal, or patience is at an end.
        """
        if isinstance(error, MissingError):
            raise UserError(f"{self._what}: there is no such object ({error})") from error
        if isinstance(error, RefusedError):
            if self._refreshed:
                raise UserError(f"{self._what}: {error}") from error
            self._refreshed = True  # they may have been renewed since they were read
            self._store.refresh()
            return
        now = time.monotonic()
        self._since = self._since or now
        waited = now - self._since
        if waited >= self._patience_s:
            raise UserError(
                f"{self._what}: {error}, for {waited:.0f} s and {self._tries + 1} attempts; start "
                "the run again when the store answers"
            ) from error
        if waited > _SAID_AFTER_S and not self._said:
            self._said = True
            note(f"{self._what}: {error}; trying on for {self._patience_s - waited:.0f} s")
        longest = min(_FIRST_WAIT_S * 2**self._tries, _LONGEST_WAIT_S)
        self._tries = min(self._tries + 1, 30)
        time.sleep(min(longest * _jitter.uniform(0.5, 1), self._patience_s))


def retried(store: Store, what: str, action: Callable[[], T], *, patience_s: float) -> T:
    """Return what an action returns, as soon as it succeeds; see `Patience`."""
    patience = Patience(store, what, patience_s=patience_s)
    while True:
        try:
            return action()
        except (TransientError, MissingError, RefusedError) as error:
            patience.after(error)
