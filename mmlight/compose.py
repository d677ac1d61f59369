"""Experiment files that extend others, and what differs between two configurations.

An experiment names the files it builds on at its top; paths are relative to the file itself::

    extends: [../base/cpu.yaml, ../towers/vit_tiny.yaml]

They are expanded into successive configurations, the first extended file first, the experiment
itself last, so that later values win. The key itself never reaches the parser.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mmlight.errors import UserError

EXTENDS = "extends"


@dataclass(frozen=True)
class Layer:
    """One configuration file without its `extends` key.

    Attributes:
        path: where it was read.
        values: its content.
    """

    path: Path
    values: dict[str, Any]


def read(path: Path) -> dict[str, Any]:
    """Read one YAML file that holds a mapping.

    Raises:
        UserError: no such file, not YAML, or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"config file {path}: {_reason(error)}") from error
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" line {where.line + 1}" if where else ""
        problem = getattr(error, "problem", None) or "not valid YAML"
        raise UserError(f"config file {path}{line}: {problem}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(
            f"config file {path}: must hold keys and values, not a {type(values).__name__}"
        )
    return values


def expand(path: Path) -> list[Layer]:
    """Return the layers of an experiment, the deepest extended file first.

    A file that is reached twice counts once, at its first place.

    Raises:
        UserError: a missing file, a circle, or an `extends` that is not a list of paths.
    """
    layers: list[Layer] = []
    _collect(path, trail=(), layers=layers)
    return layers


def _collect(path: Path, *, trail: tuple[Path, ...], layers: list[Layer]) -> None:
    real = path.resolve()
    if real in trail:
        circle = " -> ".join(p.name for p in (*trail, real))
        raise UserError(f"config file {path}: `{EXTENDS}` goes round in a circle ({circle})")
    if any(layer.path.resolve() == real for layer in layers):
        return
    values = read(path)
    parents = values.pop(EXTENDS, [])
    if isinstance(parents, str):
        parents = [parents]
    if not isinstance(parents, list) or not all(isinstance(p, str) for p in parents):
        raise UserError(f"config file {path}: `{EXTENDS}` must be a list of paths, got {parents!r}")
    for parent in parents:
        _collect(path.parent / parent, trail=(*trail, real), layers=layers)
    layers.append(Layer(path=path, values=values))


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return `{"model.init_args.embed_dim": 64, ...}` of nested mappings; lists are leaves."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def diff(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the flat keys whose values differ, with both values (None where absent)."""
    a, b = flatten(left), flatten(right)
    return {key: (a.get(key), b.get(key)) for key in sorted(a | b) if a.get(key) != b.get(key)}


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else "not UTF-8 text"
