"""JSON of strangers."""

import json
from collections.abc import Iterable
from typing import Any

# Python's own limit differs between versions, and what walks a value later has others.
_MAX_DEPTH = 100


def parse_json(text: bytes | str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is none, an object has a key twice, or its lists and objects are nested more
            than 100 deep.
    """
    too_deep = f"JSON that is nested more than {_MAX_DEPTH} deep"
    try:
        value = json.loads(text, object_pairs_hook=unique_keys)
    except RecursionError:
        raise ValueError(too_deep) from None
    brackets: tuple[Any, Any] = ("[", "{") if isinstance(text, str) else (b"[", b"{")
    if sum(map(text.count, brackets)) > _MAX_DEPTH:
        level = [value]
        for _ in range(_MAX_DEPTH + 1):
            level = [inner for outer in level for inner in _within(outer)]
        if level:
            raise ValueError(too_deep)
    return value


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON.

    Raises:
        ValueError: it has a key twice.
    """
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"JSON whose key '{twice[:40]}' comes twice")
    return value


def _within(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
