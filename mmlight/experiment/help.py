"""Help on one key (`--data.image.help`) and on an experiment's classes."""

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from jsonargparse import ArgumentParser

from mmlight.errors import UserError
from mmlight.experiment.arguments import Given
from mmlight.experiment.keys import find_kinds, import_class, is_open, names_class, settings_of
from mmlight.experiment.parser import ROOTS
from mmlight.terminal import say, say_text

_LISTS = {
    "Task": "tasks",
    "Encoder": "encoders",
    "Fusion": "heads",
    "BoxHead": "heads",
    "Tokenizer": "tokenizers",
}


def show_help(verb: str, given: Given) -> bool:
    """Print help on one key; return whether it is asked for.

    Args:
        verb: the verb.
        given: what follows it.

    Raises:
        UserError: there is no such key or class.
    """
    for place, argument in enumerate(given.flags):
        flag, equals, name = argument.partition("=")
        if not flag.endswith(".help") or flag.removeprefix("--").split(".")[0] not in ROOTS:
            continue
        after = given.flags[place + 1] if place + 1 < len(given.flags) else "-"
        name = name if equals else after if not after.startswith("-") else ""
        key = flag.removeprefix("--").removesuffix(".help")
        kinds = [import_class(name, key)] if name else find_kinds(key, given.values, ROOTS)
        if not kinds:
            raise UserError(
                f"--{key}.help: is a plain value, or below a class that nobody has named; give "
                f"-c FILE, or see `mmlight {verb} --model.help CLASS`"
            )
        for kind in kinds:
            if is_open(kind):
                listed = _LISTS.get(kind.__name__, "objectives")
                raise UserError(
                    f"--{key}.help: name the class: --{key}.help CLASS; `mmlight list {listed}` "
                    "has them, and with -c FILE it is that of the experiment"
                )
            _print_class(key, kind)
        return True
    return False


def show_classes(verb: str, given: Given) -> None:
    """Print what the classes take that the configurations among the arguments name."""
    for key, path in _named(given.values):
        _print_class(key, import_class(path, key))
    say(
        "",
        f"mmlight {verb} -c FILE --help    also what the classes of an experiment take",
        f"mmlight {verb} --model.help CLASS, --data.image.help    one class, one key",
        "mmlight list tasks    and encoders, objectives, heads, tokenizers, datasets",
    )


def _print_class(key: str, kind: type) -> None:
    parser = ArgumentParser(usage=argparse.SUPPRESS, add_help=False)
    parser.add_class_arguments(kind, key, fail_untyped=False)
    say("", f"{key}: {kind.__module__}.{kind.__qualname__}")
    say_text(parser.format_help().strip() + "\n")


def _named(values: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if not isinstance(values, Mapping):
        return
    if names_class(values) and key:
        yield key, values["class_path"]
    for name, value in settings_of(values).items():
        yield from _named(value, f"{key}.{name}" if key else str(name))
