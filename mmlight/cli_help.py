"""Help on one key (`--data.image.help`) and on an experiment's classes; mistyped keys."""

import argparse
import importlib
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union, get_args, get_origin

from jsonargparse import ArgumentParser

from mmlight import yaml_text
from mmlight.cli_arguments import INLINE
from mmlight.errors import UserError, nearest
from mmlight.tasks.rebuild import parameters_of
from mmlight.terminal import say, say_text

_LISTS = {
    "Task": "tasks",
    "Encoder": "encoders",
    "Fusion": "heads",
    "BoxHead": "heads",
    "Tokenizer": "tokenizers",
}


@dataclass(frozen=True)
class Keys:
    """What stands at the keys of an experiment.

    Attributes:
        values: the configuration as files and flags give it so far.
        roots: the class at each key of the top.
    """

    values: Mapping[str, Any]
    roots: Mapping[str, type]

    def find(self, key: str) -> list[type]:
        """Return the classes that may stand at a key; none where it is a plain value.

        Raises:
            UserError: there is no such key; it names the nearest.
        """
        first, *parts = key.split(".")
        kinds = _of_node(self.values.get(first), [self.roots[first]])
        node, path = self.values.get(first), [first]
        for part in parts:
            if part == "init_args" or (part == "class_path" and _is_class(node)):
                continue
            if not kinds or any(_is_open(kind) for kind in kinds):
                return []  # nobody has said which class
            known: dict[str, Any] = {}
            for kind in kinds:
                known |= parameters_of(kind)
            if part not in known:
                where = ".".join([*path, part])
                raise UserError(f"unknown key `{where}`{nearest(part, known)}")
            node = _settings(node).get(part)
            kinds = _of_node(node, list(_classes(known[part].hint)))
            path.append(part)
        return kinds


def merged(arguments: Sequence[str]) -> dict[str, Any]:
    """Return what the configurations among the arguments say together."""
    values: dict[str, Any] = {}
    for argument in arguments:
        if argument.startswith(INLINE):
            values = _merge(values, yaml_text.load(argument.removeprefix(INLINE)))
    return values


def check_keys(arguments: Sequence[str], roots: Mapping[str, type]) -> None:
    """Refuse a flag below `model` or `data` that names no setting.

    The parser blames `model` for all of them.

    Raises:
        UserError: it names the key, and the nearest.
    """
    keys = Keys(merged(arguments), roots)
    for argument in arguments:
        key = argument.partition("=")[0].removeprefix("--").rstrip("+")
        if argument.startswith("--") and key.startswith(("model.", "data.")):
            keys.find(key)


def show_help(verb: str, arguments: Sequence[str], roots: Mapping[str, type]) -> bool:
    """Print help on one key, if it is asked for.

    Args:
        verb: the verb.
        arguments: what follows it, configurations expanded.
        roots: the class at each key of the top.

    Returns:
        Whether it was asked for.

    Raises:
        UserError: there is no such key or class.
    """
    for place, argument in enumerate(arguments):
        flag, equals, name = argument.partition("=")
        if not flag.endswith(".help") or flag.removeprefix("--").split(".")[0] not in roots:
            continue
        after = arguments[place + 1] if place + 1 < len(arguments) else "-"
        name = name if equals else after if not after.startswith("-") else ""
        key = flag.removeprefix("--").removesuffix(".help")
        kinds = [_import(name, key)] if name else Keys(merged(arguments), roots).find(key)
        if not kinds:
            raise UserError(
                f"--{key}.help: is a plain value, or below a class that nobody has named; give "
                f"-c FILE, or see `mmlight {verb} --model.help CLASS`"
            )
        for kind in kinds:
            if _is_open(kind):
                listed = _LISTS.get(kind.__name__, "objectives")
                raise UserError(
                    f"--{key}.help: name the class: --{key}.help CLASS; `mmlight list {listed}` "
                    "has them, and with -c FILE it is that of the experiment"
                )
            _print_class(key, kind)
        return True
    return False


def show_classes(verb: str, arguments: Sequence[str]) -> None:
    """Print what the classes take that the configurations among the arguments name."""
    for key, path in _named(merged(arguments)):
        _print_class(key, _import(path, key))
    say(
        "",
        f"mmlight {verb} -c FILE --help    also what the classes of an experiment take",
        f"mmlight {verb} --model.help CLASS, --data.image.help    one class, one key",
        "mmlight list tasks    and encoders, objectives, heads, tokenizers, datasets",
    )


def asks_for_all(arguments: Sequence[str]) -> bool:
    """Return whether ``--help`` is among the arguments."""
    return any(argument in ("--help", "-h") for argument in arguments)


def _is_open(kind: type) -> bool:
    """Return whether a class is only a base; a Lightning module has no ABC's metaclass."""
    return any(
        getattr(inspect.getattr_static(kind, name, None), "__isabstractmethod__", False)
        for name in dir(kind)
    )


def _print_class(key: str, kind: type) -> None:
    parser = ArgumentParser(usage=argparse.SUPPRESS, add_help=False)
    parser.add_class_arguments(kind, key, fail_untyped=False)
    say("", f"{key}: {kind.__module__}.{kind.__qualname__}")
    say_text(parser.format_help().strip() + "\n")


def _named(values: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if not isinstance(values, Mapping):
        return
    if _is_class(values) and key:
        yield key, values["class_path"]
    for name, value in _settings(values).items():
        yield from _named(value, f"{key}.{name}" if key else str(name))


def _is_class(node: Any) -> bool:
    return isinstance(node, Mapping) and isinstance(node.get("class_path"), str)


def _settings(node: Any) -> Mapping[str, Any]:
    if not isinstance(node, Mapping):
        return {}
    inner = node.get("init_args")
    return inner if isinstance(inner, Mapping) else node


def _of_node(node: Any, kinds: list[type]) -> list[type]:
    return [_import(node["class_path"], "class_path")] if _is_class(node) else kinds


def _import(path: str, key: str) -> type:
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{key}: there is no class {path}") from error
    return found


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


def _merge(one: dict[str, Any], other: Any) -> dict[str, Any]:
    merged_values = dict(one)
    for key, value in (other if isinstance(other, dict) else {}).items():
        before = merged_values.get(key)
        both = isinstance(before, dict) and isinstance(value, dict)
        merged_values[key] = _merge(before, value) if both else value  # type: ignore[arg-type]
    return merged_values
