"""An object of JSON that people write by hand: taken key by key, with a line for each mistake."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mmlight.errors import UserError, nearest
from mmlight.text_file import MIB, read_text_file

Part = TypeVar("Part")
_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


class JsonObject:
    """Takes what an object of JSON holds, and refuses what is left over.

    Args:
        values: the object.
        where: it stands; messages begin with it.
    """

    def __init__(self, values: Any, where: str) -> None:
        if not isinstance(values, dict):
            raise UserError(f"{where}: must be an object of JSON, not {_shown(values)}")
        self._values = dict(values)
        self._where = where
        self._known: list[str] = []

    @classmethod
    def of_file(cls, path: Path) -> "JsonObject":
        """Return what a file holds.

        Raises:
            UserError: it is missing, too large, or no JSON.
        """
        text = read_text_file(path, what=str(path), largest=MIB)
        try:
            return cls(json.loads(text), str(path))
        except json.JSONDecodeError as error:
            raise UserError(f"{path} line {error.lineno}: no JSON: {error.msg}") from error
        except RecursionError as error:
            raise UserError(f"{path}: nested too deeply") from error

    def text(self, key: str, **default: str) -> str:
        """Return a text, which may be empty where it may be missing."""
        empty = default.get("default") == ""
        return str(self._take(key, lambda v: _is(v, str) and (v or empty), "text", **default))

    def number(self, key: str) -> float:
        """Return a number."""
        return float(self._take(key, lambda v: _is(v, float), "a number"))

    def optional(self, kind: type, key: str) -> Any:
        """Return a value of a kind, or None."""
        what = f"{_WORDS[kind]} or null"
        return self._take(key, lambda v: v is None or _is(v, kind), what, default=None)

    def choice(self, key: str, options: Sequence[Any], **default: Any) -> Any:
        """Return one of several texts."""
        listed = " or ".join(json.dumps(option) for option in options)
        return self._take(
            key, lambda v: isinstance(v, str | None) and v in options, listed, **default
        )

    def list_of(self, kind: type, key: str) -> list[Any]:
        """Return a list of values of a kind; an empty one where it is missing."""

        def fits(value: Any) -> bool:
            return isinstance(value, list) and all(_is(one, kind) for one in value)

        return list(self._take(key, fits, f"a list, each {_WORDS[kind]}", default=[]))

    def parts(self, key: str, make: Callable[["JsonObject"], Part]) -> tuple[Part, ...]:
        """Return what is made of each object in a list; nothing where it is missing."""
        found = []
        values = self._take(key, lambda v: isinstance(v, list), "a list of objects", default=[])
        for place, one in enumerate(values):
            part = JsonObject(one, f"{self._where}: {key}[{place}]")
            found.append(make(part))
            part.end()
        return tuple(found)

    def end(self) -> None:
        """Refuse what was not taken."""
        for key in self._values:
            raise UserError(f"{self._where}: unknown key `{key}`{nearest(key, self._known)}")

    def _take(self, key: str, fits: Callable[[Any], Any], what: str, **default: Any) -> Any:
        self._known.append(key)
        if key not in self._values:
            if "default" in default:
                return default["default"]
            raise UserError(f"{self._where}: `{key}` is missing; it is {what}")
        value = self._values.pop(key)
        if not fits(value):
            raise UserError(f"{self._where}: `{key}` must be {what}, not {_shown(value)}")
        return value


def _is(value: Any, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = json.dumps(value)
    return text if len(text) < 60 else f"{text[:57]}..."
