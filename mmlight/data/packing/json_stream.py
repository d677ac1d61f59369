"""Reads a JSON object whose lists are too long for memory, one element after the other."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from mmlight.data.json_text import unique_keys
from mmlight.data.packing.table_file import open_text

_CHUNK = 1 << 20
_SPACE = " \t\r\n"
# Of one value: a list of polygons around one object has kilobytes.
_LARGEST = 256 << 20


def stream_object(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the entries of the object that a file holds; of a list each element by itself.

    Args:
        path: the file.

    Raises:
        ValueError: it holds no JSON object.
        OSError: it cannot be read.
    """
    with open_text(path, None) as file:
        text = _Text(file)
        text.take("{")
        if text.peek() == "}":
            return
        while True:
            name = text.value()
            if not isinstance(name, str):
                raise ValueError(f"{name!r} is no key of JSON")
            text.take(":")
            if text.peek() == "[":
                text.take("[")
                if text.peek() == "]":
                    text.take("]")
                else:
                    while True:
                        yield name, text.value()
                        if text.take(",]") == "]":
                            break
            else:
                yield name, text.value()
            if text.take(",}") == "}":
                return


class _Text:
    """The text from where it is read on."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._text = ""
        self._at = 0
        self._decoder = json.JSONDecoder(object_pairs_hook=unique_keys)

    def _more(self, size: int = _CHUNK) -> bool:
        new = self._file.read(size)
        self._text = self._text[self._at :] + new
        self._at = 0
        return bool(new)

    def peek(self) -> str:
        """Return the next character that is no white space."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                raise ValueError("JSON that ends too early")

    def take(self, wanted: str) -> str:
        """Take the next character, which must be one of these."""
        found = self.peek()
        if found not in wanted:
            raise ValueError(f"JSON with {found!r} where {' or '.join(wanted)} should be")
        self._at += 1
        return found

    def value(self) -> Any:
        """Take the next value."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                if len(self._text) - self._at > _LARGEST or not self._more(
                    max(_CHUNK, len(self._text) - self._at)
                ):
                    raise ValueError(f"JSON that can't be read: {error}") from error
                continue
            # A number may go on behind the end of what was read.
            if end == len(self._text) and self._more():
                continue
            self._at = end
            return value
