"""Command-line arguments before they are parsed: config files, lists, a checkpoint's own config."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmlight import compose, yaml_text
from mmlight.errors import UserError, nearest
from mmlight.own_modules import FLAG, KEY, bring_in, names_of, take_imports
from mmlight.trust import allow

LAST = "last"
BEST = "best"
AUTO = "auto"
INLINE = "--config="
# Not a text such as "- one", nor a number.
_FLAG = re.compile(r"--?[A-Za-z][^\s=]*(?:=.*)?", re.DOTALL)
# Not what is text whatever it says.
_NESTED = re.compile(r"--(?:model|data)\.(?!(?:init_args\.)?predict\.text)")


def check_top_keys(values: dict[str, Any], known: Sequence[str]) -> None:
    """Refuse a key at the top of a config that is none of the known ones.

    Raises:
        UserError: it names the key that was probably meant.
    """
    roots = {key.partition(".")[0] for key in known} - {"config", "help", "print_config"}
    for key in values:
        root = str(key).partition(".")[0]
        if root == "config":
            raise UserError(
                f"unknown key `config`; to build on other files, name {compose.EXTENDS}"
            )
        if root not in roots:
            raise UserError(f"unknown key `{root}`{nearest(root, roots)}")


def expand_configs(arguments: Sequence[str]) -> tuple[list[str], str]:
    """Replace each ``-c FILE`` by the files it extends, as inline configurations.

    The classes that the last file names for `model` and `data` are said first, so that a file of
    settings (a tower, say) can be extended before the file that names the class.
    A null below `model` or `data` (``--model.towers.NAME null``) becomes such a configuration too,
    as the parser takes one for settings within settings from a configuration only. Modules of the
    user's own, which ``--import`` or ``import`` in a file name, are imported.

    Returns:
        The arguments for the parser, and the name of the first file (the experiment's name).
    """
    expanded: list[str | dict[str, Any]] = []
    classes: dict[str, Any] = {}
    name: str | None = None
    arguments, modules = take_imports(arguments)
    rest = list(reversed(arguments))
    while rest:
        argument = rest.pop()
        flag, equals, value = argument.partition("=")
        if not equals:
            value = rest[-1] if rest else ""
        if _NESTED.match(flag) and value in ("null", "None"):
            rest = rest if equals else rest[:-1]
            layers = [one for one in expanded if isinstance(one, dict)]
            expanded.append(_without(flag.removeprefix("--").split("."), layers))
            continue
        if flag not in ("-c", "--config"):
            expanded.append(argument)
            continue
        rest = rest if equals else rest[:-1]
        if not value:
            raise UserError(f"{flag} needs the path of a config file")
        path = Path(value)
        if name is None:
            name = path.parent.parent.name if path.name == "config.yaml" else path.stem
        for layer in compose.expand(path):
            for key in ("model", "data"):
                part = layer.values.get(key)
                if isinstance(part, dict) and isinstance(part.get("class_path"), str):
                    classes[key] = {"class_path": part["class_path"]}
            _begin_optimizer(layer.values, [one for one in expanded if isinstance(one, dict)])
            # What the user's own file names is imported anyway; checkpoints may name it too.
            allow(_class_paths(layer.values))
            modules += names_of(layer.values.pop(KEY, None), where=f"config file {path}: {KEY}")
            if layer.values:
                expanded.append(layer.values)
    if classes:
        expanded.insert(0, classes)
    if modules := list(dict.fromkeys(modules)):
        bring_in(modules)
        expanded.insert(0, f"{FLAG}={json.dumps(modules)}")
    return [_inline(one) if isinstance(one, dict) else one for one in expanded], name or "run"


def _inline(values: dict[str, Any]) -> str:
    return f"{INLINE}{yaml_text.dump_layer(values)}"


def _without(parts: list[str], layers: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the configuration that sets one key to null.

    Args:
        parts: of the key; `init_args` may be left out.
        layers: what was said before, which tells where a class's settings begin.
    """
    known: list[Any] = list(layers)
    path: list[str] = []
    for depth, part in enumerate(parts):
        known = [one.get(part) for one in known if isinstance(one, dict)]
        path.append(part)
        below = parts[depth + 1] if depth + 1 < len(parts) else None
        is_class = depth == 0 or any(isinstance(one, dict) and "class_path" in one for one in known)
        if is_class and below not in (None, "init_args", "class_path"):
            path.append("init_args")
            known = [one.get("init_args") for one in known if isinstance(one, dict)]
    values: Any = None
    for part in reversed(path):
        values = {part: values}
    return dict(values)


def _begin_optimizer(values: dict[str, Any], earlier: list[dict[str, Any]]) -> None:
    """Let a file that names an optimiser's class begin anew: AdamW's rate is not that of SGD."""
    named = [part for part in _optimizers(values) if part["optimizer"].get("class_path")]
    for part in named:
        # The parser takes a mapping of `class_path` and `init_args` alone for something else.
        part["optimizer"] = {"fused": None, "init_args": {}} | part["optimizer"]
    for before in earlier if named else ():
        for part in list(_optimizers(before)):
            del part["optimizer"]


def _optimizers(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the mappings that hold the settings of an optimiser."""
    model = values.get("model")
    for part in (model, model.get("init_args") if isinstance(model, dict) else None):
        if isinstance(part, dict) and isinstance(part.get("optimizer"), dict):
            yield part


def _class_paths(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = value.get("class_path")
        found = [own] if isinstance(own, str) else []
        return found + [path for item in value.values() for path in _class_paths(item)]
    return [path for item in value for path in _class_paths(item)] if type(value) is list else []


def join_values(arguments: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Join the values that follow a flag (``--files a.jpg b.jpg``) into one, as a list.

    So they also reach the parser as they are: it would read ``[laughs]`` as a list.
    """
    joined: list[str] = []
    values: list[str] = []
    inside = False
    for argument in [*arguments, "--end"]:
        flag, equals, value = argument.partition("=")
        if inside and not _FLAG.fullmatch(argument):
            values.append(argument)
            continue
        if inside:
            joined[-1] += f"={json.dumps(values)}"
        inside = flag in flags
        values = [value] if equals else []
        joined.append(flag if inside else argument)
    return joined[:-1]
