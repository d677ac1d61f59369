"""Command-line arguments before they are parsed: config files, lists, a checkpoint's own config."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmlight import compose, yaml_text
from mmlight.errors import UserError, nearest
from mmlight.own_modules import FLAG, KEY, bring_in, names_of, take_imports
from mmlight.trust import allow

LAST = "last"
AUTO = "auto"
INLINE = "--config="
# Not a text such as "- one", nor a number.
_FLAG = re.compile(r"--?[A-Za-z][^\s=]*(?:=.*)?", re.DOTALL)
_TOWER = re.compile(r"--model\.(?:init_args\.)?towers\.(\w+)")


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
    ``--model.towers.NAME null`` becomes such a configuration too. Modules of the user's own, which
    ``--import`` or ``import`` in a file name, are imported.

    Returns:
        The arguments for the parser, and the name of the first file (the experiment's name).
    """
    expanded: list[str] = []
    classes: dict[str, dict[str, str]] = {}
    name: str | None = None
    arguments, modules = take_imports(arguments)
    rest = iter(arguments)
    for argument in rest:
        flag, equals, value = argument.partition("=")
        tower = _TOWER.fullmatch(flag)
        if flag not in ("-c", "--config") and tower is None:
            expanded.append(argument)
            continue
        if not equals:
            value = next(rest, "")
        if tower is not None:
            # jsonargparse takes a null for settings within settings from a configuration only.
            without = {"model": {"init_args": {"towers": {tower[1]: None}}}}
            leave_out = value in ("null", "None")
            expanded += [f"{INLINE}{yaml_text.dump_layer(without)}"] if leave_out else [flag, value]
            continue
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
            # What the user's own file names is imported anyway; checkpoints may name it too.
            allow(_class_paths(layer.values))
            modules += names_of(layer.values.pop(KEY, None), where=f"config file {path}: {KEY}")
            if layer.values:
                expanded.append(f"{INLINE}{yaml_text.dump_layer(layer.values)}")
    if classes:
        expanded.insert(0, f"{INLINE}{yaml_text.dump_layer(classes)}")
    if modules := list(dict.fromkeys(modules)):
        bring_in(modules)
        expanded.insert(0, f"{FLAG}={json.dumps(modules)}")
    return expanded, name or "run"


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
