"""What may stand at the keys of an experiment: classes, and their settings."""

import inspect
import pkgutil
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Union, get_args, get_origin

from lightning.pytorch.callbacks import Callback

from mmlight.errors import UserError, nearest
from mmlight.experiment.arguments import Given
from mmlight.parameters import parameters_of


def find_kinds(key: str, values: Mapping[str, Any], roots: Mapping[str, type]) -> list[type]:
    """Return the classes that may stand at a key; none where it is a plain value.

    Args:
        key: such as ``data.image``.
        values: the configuration as files and flags give it so far.
        roots: the class at each key of the top.

    Raises:
        UserError: there is no such key; it names the nearest.
    """
    first, *parts = key.split(".")
    node, path = values.get(first), [first]
    kinds = _of_node(node, [roots[first]])
    for part in parts:
        if part == "init_args" or (part == "class_path" and names_class(node)):
            continue
        if not kinds or any(is_open(kind) for kind in kinds):
            return []  # nobody has said which class
        known: dict[str, Any] = {}
        for kind in kinds:
            known |= parameters_of(kind)
        if part not in known:
            raise UserError(f"unknown key `{'.'.join([*path, part])}`{nearest(part, known)}")
        node = settings_of(node).get(part)
        kinds = _of_node(node, list(_classes(known[part].hint)))
        path.append(part)
    return kinds


def check_keys(given: Given, roots: Mapping[str, type]) -> None:
    """Refuse a flag below `model` or `data` that names no setting.

    The parser blames `model` for all of them.

    Raises:
        UserError: it names the key, and the nearest.
    """
    for argument in given.flags:
        key = argument.partition("=")[0].removeprefix("--").rstrip("+")
        if argument.startswith("--") and key.startswith(("model.", "data.")):
            find_kinds(key, given.values, roots)


def without_nulls(values: Mapping[str, Any], roots: Mapping[str, type]) -> dict[str, Any]:
    """Leave out each null in the place of settings that cannot be null: they have their defaults.

    So it is with a key below which every line of a YAML file is a comment. The parser would hand
    the null on to a class that reads settings.

    Args:
        values: the configuration as files and flags give it.
        roots: the class at each key of the top.
    """
    kept = dict(values)
    for key, kind in roots.items():
        if isinstance(kept.get(key), Mapping):
            kept[key] = _without_nulls(kept[key], [kind])
        elif key in kept and kept[key] is None and not issubclass(kind, Callback):
            del kept[key]
    return kept


def _without_nulls(node: Any, kinds: list[type]) -> Any:
    if isinstance(node, list):
        return [_without_nulls(one, kinds) for one in node]
    if not isinstance(node, Mapping):
        return node
    try:
        kinds = _of_node(node, kinds)
    except UserError:  # the parser says it, and names the nearest
        return node
    known: dict[str, Any] = {}
    for kind in kinds:
        if isinstance(kind, type):  # and not a function: `saved_task`, of a checkpoint
            known |= parameters_of(kind)
    if node.get("init_args", node) is None:
        node = {name: value for name, value in node.items() if name != "init_args"}
    settings = settings_of(node)
    kept: dict[str, Any] = {}
    for name, value in settings.items():
        hint = known[name].hint if name in known else None
        if value is not None:
            kept[name] = _without_nulls(value, list(_classes(hint)))
        elif not isinstance(hint, type) or not list(_classes(hint)):
            kept[name] = None
    return {**node, "init_args": kept} if settings is not node else kept


def is_open(kind: type) -> bool:
    """Return whether a class is only a base; a Lightning module has no ABC's metaclass."""
    return any(
        getattr(inspect.getattr_static(kind, name, None), "__isabstractmethod__", False)
        for name in dir(kind)
    )


def names_class(node: Any) -> bool:
    """Return whether a part of a configuration names a class."""
    return isinstance(node, Mapping) and isinstance(node.get("class_path"), str)


def settings_of(node: Any) -> Mapping[str, Any]:
    """Return the settings in a part of a configuration, of a class or by themselves."""
    if not isinstance(node, Mapping):
        return {}
    inner = node.get("init_args")
    return inner if isinstance(inner, Mapping) else node


def _of_node(node: Any, kinds: list[type]) -> list[type]:
    return [import_class(node["class_path"], "class_path")] if names_class(node) else kinds


def import_class(path: str, key: str) -> type:
    """Return a class by its full path.

    Raises:
        UserError: there is none.
    """
    try:
        return pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{key}: there is no class {path}") from error


def _classes(hint: Any) -> Iterator[type]:
    """Yield the classes of ours that an annotation names, within unions, lists and factories."""
    hint = getattr(hint, "__value__", hint)
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType, list, tuple, typing.Annotated):
        for one in inner:
            yield from _classes(one)
    elif origin is Callable and inner:
        yield from _classes(inner[-1])
    elif isinstance(hint, type) and hint.__module__.startswith(("mmlight.", "lightning.")):
        yield hint
