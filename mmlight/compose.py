"""Experiment files that extend others, and what differs between two configurations.

An experiment names the files it builds on at its top; paths are relative to the file itself::

    extends: [../base/cpu.yaml, ../towers/vit_tiny.yaml]

They are merged, the first extended file first, the experiment itself last, so that later values
win. The key itself never reaches the parser.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mmlight import yaml_text
from mmlight.errors import UserError
from mmlight.renamed import present_names, present_settings
from mmlight.text_file import MIB, read_text_file

EXTENDS = "extends"
# Of a file. The longest of a run folder, with a thousand class names in it, has 60 kB.
LARGEST = 4 * MIB
_DEEPEST, _MOST_VALUES = 100, 1_000_000
# The loader in C takes a tenth of the time.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


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
    where = f"config file {path}"
    values = load_yaml(read_text_file(path, what=where, largest=LARGEST), where=where)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{where}: must hold keys and values, not a {type(values).__name__}")
    found: dict[str, Any] = present_names(values)
    return found


def load_yaml(text: str, *, where: str) -> Any:
    """Return what a text of YAML says, within bounds of depth and size.

    Args:
        text: the text.
        where: where it was read; messages begin with it.

    Raises:
        UserError: not YAML, a key that comes twice, nested too deeply, or aliases (``*name``) that
            stand for too much.
    """
    try:
        _check_size(text, where)
        return yaml_text.load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not valid YAML"
        raise UserError(f"{where}{line}: {problem}") from error
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        if isinstance(error, UserError):
            raise
        # Of a value that its form or its tag promises: a date 2020-99-99, `!!int x`.
        raise UserError(f"{where}: not valid YAML: {error}") from error


def _check_size(text: str, where: str) -> None:
    """Count values as they would be with each alias written out, before anything is built."""
    sizes: dict[str, int | None] = {}
    stack: list[tuple[str | None, int]] = []
    count = 0
    for event in yaml.parse(text, _LOADER):
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, before = stack.pop()
            if anchor is not None:
                sizes[anchor] = count - before
            continue
        if isinstance(event, yaml.AliasEvent):
            size = sizes.get(str(event.anchor), 0)
            if size is None:
                raise UserError(f"{where}: alias `*{event.anchor}` stands within what it names")
            count += size
        elif isinstance(event, yaml.NodeEvent):
            count += 1
            if isinstance(event, yaml.CollectionStartEvent):
                stack.append((event.anchor, count - 1))
            if event.anchor is not None:
                sizes[event.anchor] = None if isinstance(event, yaml.CollectionStartEvent) else 1
        if len(stack) > _DEEPEST:
            raise UserError(f"{where}: nested more than {_DEEPEST} deep")
        if count > _MOST_VALUES:
            raise UserError(f"{where}: its aliases stand for more than {_MOST_VALUES:,} values")


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


def merge(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return what two configurations say together; nothing is changed in place.

    Mappings are merged, lists and all else replaced; a null is a value like others. Where `after`
    names another class than `before`, the settings of the class before go, and those of a class
    that was not named but taken by default (AdamW's rate is not that of SGD). A part that holds
    `init_args` alone waits for its class: a tower's file may be extended before the task is named.
    """
    # Settings may stand in a file that does not name their class, under earlier names too.
    path = after.get("class_path") or before.get("class_path")
    before, after = (
        {**part, "init_args": present_settings(path, part["init_args"])}
        if isinstance(part.get("init_args"), Mapping)
        else part
        for part in (before, after)
    )
    merged = dict(before)
    for key, value in after.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping) and not _begins(old, value):
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged


def _begins(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    path = after.get("class_path")
    waits = before.get("class_path") is None and set(before) <= {"class_path", "init_args"}
    return isinstance(path, str) and path != before.get("class_path") and not waits


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return `{"model.init_args.embed_dim": 64, ...}` of nested mappings; lists are leaves."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        is_node = isinstance(value, Mapping) and value
        flat |= flatten(value, f"{prefix}{key}.") if is_node else {f"{prefix}{key}": value}
    return flat


def diff(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the flat keys whose values differ, with both values (None where absent)."""
    a, b = flatten(left), flatten(right)
    return {key: (a.get(key), b.get(key)) for key in sorted(a | b) if a.get(key) != b.get(key)}
