"""Objects of a web server. Names and passwords come from the URL or from ``~/.netrc``."""

import os
import re
import socket
from collections.abc import Iterator
from functools import partial
from typing import Any

from mmlight.data.shards.store import (
    CONNECT_S,
    READ_S,
    Found,
    MissingError,
    RefusedError,
    Stream,
    TransientError,
    pieces,
)

_MISSING, _REFUSED, _UNKNOWN_RANGE = (404, 410), (401, 403, 407), 416
_BUSY = (408, 425, 429)
_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+)")


class HttpStore:
    """Reads by ranged GET, which presigned URLs allow where they refuse HEAD."""

    can_list = False
    can_write = False

    def __init__(self) -> None:
        import requests

        self._session = requests.Session()
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=64)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)

    def find(self, url: str) -> Found:
        """See `Store`."""
        answer = self._get(url, 0, 1)
        with answer:
            return _found(url, answer)

    def page(self, prefix: str, token: str) -> tuple[list[Found], str]:
        """See `Store`."""
        raise RefusedError("a web server can't be listed")

    def read(self, url: str, start: int, stop: int) -> Stream:
        """See `Store`."""
        answer = self._get(url, start, stop)
        found = _found(url, answer)
        # A server without ranges sends all of it.
        skipped = start if answer.status_code == 200 else 0
        return Stream(found, _chunks(answer, skipped, stop - start))

    def whole(self, url: str, start: int) -> Stream:
        """See `Store`; the length may not be known, and is -1 then."""
        answer = self._get(url, start, None)
        found = _found(url, answer, is_sized=False)
        skipped = start if answer.status_code == 200 else 0
        wanted = found.num_bytes - start if found.num_bytes >= 0 else None
        return Stream(found, _chunks(answer, skipped, wanted))

    def write(self, url: str, content: bytes) -> None:
        """See `Store`."""
        raise RefusedError("nothing can be written to a web server")

    def refresh(self) -> None:
        """See `Store`; ``~/.netrc`` is read for every request."""

    def _get(self, url: str, start: int, stop: int | None) -> Any:
        import requests

        # What is sent compressed has other bytes and another length.
        headers = {"Accept-Encoding": "identity"}
        if start or stop is not None:
            headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        try:
            answer = self._session.get(
                url, headers=headers, stream=True, timeout=(CONNECT_S, READ_S)
            )
        except (requests.ConnectionError, requests.Timeout) as error:
            raise TransientError(reason(error)) from None
        except (requests.RequestException, ValueError) as error:
            # Its text holds the URL, and what signs it.
            raise RefusedError(f"the request fails ({type(error).__name__})") from None
        status = answer.status_code
        if status in (200, 206, _UNKNOWN_RANGE):
            return answer
        answer.close()
        if status in _MISSING:
            raise MissingError(f"status {status}")
        if status in _REFUSED:
            raise RefusedError(
                f"the server refuses access (status {status}): credentials are missing or expired"
            )
        if status in _BUSY or status >= 500:
            raise TransientError(f"the server answers with status {status}")
        raise RefusedError(f"the server answers with status {status}")


def _found(url: str, answer: Any, *, is_sized: bool = True) -> Found:
    headers = answer.headers
    version = headers.get("ETag") or headers.get("Last-Modified") or ""
    if answer.status_code == 200:
        length = headers.get("Content-Length", "")
    else:
        match = _RANGE.fullmatch(headers.get("Content-Range", "").strip())
        length = match[3] if match else ""
    if not length.isdecimal() and not is_sized and answer.status_code == 200:
        return Found(url, -1, version)
    if not length.isdecimal():
        answer.close()
        raise RefusedError("the server does not say how long it is (Content-Length, Content-Range)")
    return Found(url, int(length), version)


def _chunks(answer: Any, skipped: int, wanted: int | None) -> Iterator[bytes]:
    import urllib3

    try:
        with answer:
            yield from pieces(partial(answer.raw.read, decode_content=False), skipped, wanted)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise TransientError(reason(error)) from None


def reason(error: BaseException) -> str:
    """Return why a connection failed, in words that hold no URL."""
    found: BaseException | None = error
    seen: list[BaseException] = []
    while found is not None and found not in seen:
        seen.append(found)
        if isinstance(found, socket.gaierror):
            return "the server's name is not known"
        if isinstance(found, TimeoutError):
            return "the server does not answer in time"
        if isinstance(found, OSError) and isinstance(found.errno, int):
            return os.strerror(found.errno)
        inner = getattr(found, "reason", None) or next(iter(found.args), None)
        found = inner if isinstance(inner, BaseException) else found.__cause__ or found.__context__
    return {"IncompleteRead": "the answer ends early"}.get(
        type(seen[-1]).__name__, f"the connection fails ({type(seen[-1]).__name__})"
    )
