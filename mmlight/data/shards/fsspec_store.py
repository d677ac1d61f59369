"""Objects of Google Cloud Storage and of the Hugging Face Hub, through their fsspec packages."""

from collections.abc import Iterator
from typing import Any

from mmlight.data.shards.http_store import reason
from mmlight.data.shards.store import (
    CHUNK,
    Found,
    MissingError,
    RefusedError,
    Stream,
    TransientError,
)
from mmlight.errors import UserError

# What tells that an object was replaced, by the names that packages give it.
_VERSIONS = ("etag", "ETag", "blob_id", "generation", "md5Hash", "mtime", "last_modified")
_PACKAGES = {"gs": "gcsfs", "hf": "huggingface_hub"}


class FsspecStore:
    """A file system of fsspec; its package brings credentials and settings of its own."""

    can_list = True
    can_write = True

    def __init__(self, scheme: str) -> None:
        self._scheme = scheme
        self.refresh()

    def refresh(self) -> None:
        """See `Store`."""
        import fsspec

        try:
            self._files: Any = fsspec.filesystem(self._scheme, skip_instance_cache=True)
        except (ImportError, ValueError):
            package = _PACKAGES.get(self._scheme, "its fsspec package")
            raise UserError(f"{self._scheme}:// needs {package}: pip install {package}") from None

    def find(self, url: str) -> Found:
        """See `Store`."""
        return _found(url, self._try(lambda: self._files.info(_path(url), refresh=True)))

    def page(self, prefix: str, token: str) -> tuple[list[Found], str]:
        """See `Store`; all of it is one page."""
        folder = _path(prefix).rpartition("/")[0]
        entries = self._try(lambda: self._files.ls(folder, detail=True, refresh=True))
        found = [
            _found(f"{self._scheme}://{entry['name'].lstrip('/')}", entry)
            for entry in entries
            if entry["type"] == "file"
        ]
        return [one for one in found if one.url.startswith(prefix)], ""

    def read(self, url: str, start: int, stop: int) -> Stream:
        """See `Store`."""
        return Stream(self.find(url), self._chunks(url, start, stop))

    def whole(self, url: str, start: int) -> Stream:
        """See `Store`."""
        return self.read(url, start, self.find(url).num_bytes)

    def write(self, url: str, content: bytes) -> None:
        """See `Store`."""
        self._try(lambda: self._files.pipe_file(_path(url), content))

    def _chunks(self, url: str, start: int, stop: int) -> Iterator[bytes]:
        while start < stop:
            end = min(start + 16 * CHUNK, stop)
            at = start
            data = self._try(lambda at=at, end=end: self._files.cat_file(_path(url), at, end))
            if not data:
                raise TransientError("the answer ends early")
            start += len(data)
            yield data

    def _try(self, action: Any) -> Any:
        try:
            return action()
        except FileNotFoundError:
            raise MissingError("not found") from None
        except PermissionError as error:
            raise RefusedError(f"access is refused ({type(error).__name__})") from None
        # Every package has its own; those that say a status tell by it what waiting may heal.
        except Exception as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            status = status or getattr(error, "code", None) or getattr(error, "status", None)
            if status in (401, 403):
                raise RefusedError(f"access is refused (status {status})") from None
            if status == 404:
                raise MissingError("status 404") from None
            raise TransientError(reason(error)) from None


def _path(url: str) -> str:
    return url.partition("://")[2]


def _found(url: str, entry: dict[str, Any]) -> Found:
    version = next((str(entry[name]) for name in _VERSIONS if entry.get(name)), "")
    return Found(url, int(entry["size"] or 0), version)
