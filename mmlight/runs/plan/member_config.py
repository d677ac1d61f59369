"""The configuration of each run of a sweep, from one that was resolved once (no torch)."""

import hashlib
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from mmlight import compose, yaml_text
from mmlight.files import write_text

_MISSING = object()


def place(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a resolved configuration with other values, where that is all they change.

    Args:
        config: a resolved configuration.
        values: by full key.

    Returns:
        The configuration; None where a value may be a class, or is of another kind than the one
        there: then the parser has to read it.
    """
    placed = deepcopy(dict(config))
    for key, value in values.items():
        *above, last = key.split(".")
        where: Any = placed
        for part in above:
            where = where.get(part) if isinstance(where, dict) else None
        old = where.get(last, _MISSING) if isinstance(where, dict) else _MISSING
        new = _fitting(old, value)
        if new is _MISSING or last == "class_path":
            return None
        where[last] = new
    return placed


def _fitting(old: Any, new: Any) -> Any:
    """Return a value as it stands in the place of another one; `_MISSING` where that is unclear."""
    if isinstance(old, bool) or isinstance(new, bool):
        return new if isinstance(old, bool) and isinstance(new, bool) else _MISSING
    if isinstance(old, float) and isinstance(new, int | float):
        return float(new)
    same = type(old) is type(new) and isinstance(new, int | str)
    return new if same else _MISSING


def freeze(experiment: Path, folder: Path) -> Path:
    """Copy an experiment with all that it extends; return the copy, which nothing changes.

    Args:
        experiment: its file.
        folder: where the copies lie, each in a folder named after its content.
    """
    layers = compose.expand(experiment)
    texts = [yaml_text.dump_layer(layer.values) for layer in layers]
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:8]
    names = [f"{i:02d}-{layer.path.name}" for i, layer in enumerate(layers)]
    copies = folder / f"experiment-{digest}"
    for name, text in zip(names, texts, strict=True):
        write_text(copies / name, text)
    path = copies / f"{experiment.stem}.yaml"
    write_text(path, yaml_text.dump({compose.EXTENDS: names}))
    return path
