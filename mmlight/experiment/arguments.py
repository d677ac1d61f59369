"""A verb's arguments before they are parsed: checked, and their configurations merged into one.

What is wrong here is said before torch is loaded, which takes 5 s.
"""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from mmlight import compose, yaml_text
from mmlight.errors import UserError, nearest
from mmlight.own_modules import KEY, allow, bring_in, names_of, take_imports
from mmlight.renamed import SETTINGS, present_path

LAST = "last"
BEST = "best"
AUTO = "auto"
# Of the parser of the four verbs; a test compares them with it.
TOP_KEYS = (
    *("trainer", "model", "data", "run", "checkpoint", "seed_everything", "import", "ckpt_path"),
    *("ema", "zero_shot", "probe", "pictures", "mistakes", "explain", "predictions"),
    *("early_stopping", "weights_only", "verbose", "return_predictions"),
)
TRAINING = ("fit", "validate", "test", "predict")
_WITH_RUNS = ("soup", "wise-ft")
# Verbs whose `-c FILE` is an experiment.
_VERBS = (*TRAINING, "lr-find", "cost", "bench", "folds", "submit", "robustness", *_WITH_RUNS)
_CONFIG = ("-c", "--config")
# Not a text such as "- one", nor a number.
_FLAG = re.compile(r"--?[A-Za-z][^\s=]*(?:=.*)?", re.DOTALL)
_BELOW = ("model", "data")
# Text, whatever it says.
_TEXTS = ("data.predict.text", "data.init_args.predict.text")
_LISTS = tuple(
    f"--data.{at}predict.{key}" for at in ("", "init_args.") for key in ("files", "text")
)
_CLASS = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*\.[A-Z]\w*")


@dataclass(frozen=True)
class Given:
    """What a command line says.

    Attributes:
        values: its configurations, merged.
        flags: all else, for the parser; a flag wins over a configuration.
        name: the experiment's name: that of the first file.
    """

    values: dict[str, Any]
    flags: list[str]
    name: str

    def for_parser(self) -> list[str]:
        """Return the arguments that a parser takes."""
        config = [f"--config={yaml_text.dump_layer(self.values)}"] if self.values else []
        return [*config, *self.flags]


def check_start(verb: str, arguments: Sequence[str]) -> list[str]:
    """Return the arguments of a verb; an experiment that stands alone gets its ``-c``.

    Raises:
        UserError: an experiment that is not there or no YAML, a key at its top or a flag that
            begins with none, or a checkpoint's path that does not exist.
    """
    given = list(arguments)
    if verb not in _VERBS:
        return given
    if verb not in _WITH_RUNS and given and not given[0].startswith("-"):
        given.insert(0, "-c")
    for place, argument in enumerate(given):
        flag, equals, value = argument.partition("=")
        if not equals:
            value = given[place + 1] if place + 1 < len(given) else ""
        if flag in _CONFIG and value:
            _check_experiment(Path(value), name=value)
        if verb not in TRAINING or not flag.startswith("--"):
            continue
        if flag == "--ckpt_path":
            _check_checkpoint(Path(value), name=value)
        root = flag[2:].partition(".")[0].rstrip("+")
        if root not in (*TOP_KEYS, "config", "help", "print_config"):
            raise UserError(f"unknown key `{root}`{nearest(root, TOP_KEYS)}")
    return given


def _check_checkpoint(path: Path, *, name: str) -> None:
    # RUN_FOLDER/best is the run's best checkpoint.
    there = path.parent if path.name in (BEST, LAST) else path
    if path.parent != Path() and not path.exists() and not there.exists():
        raise UserError(f"--ckpt_path {name}: no such file or run folder")


def _check_experiment(path: Path, *, name: str) -> None:
    if not path.exists():
        near = nearest(path.stem, (other.stem for other in path.parent.glob("*.yaml")))
        raise UserError(f"config file {name}: no such file{near}")
    for layer in compose.expand(path):
        _check_top_keys(layer)


def _check_top_keys(layer: compose.Layer) -> None:
    for key in layer.values:
        root = str(key).partition(".")[0]
        if root not in TOP_KEYS:
            near = f"; to build on other files, name {compose.EXTENDS}" * (root == "config")
            near = near or nearest(root, TOP_KEYS)
            raise UserError(f"config file {layer.path}: unknown key `{root}`{near}")


def gather(verb: str, arguments: Sequence[str]) -> Given:
    """Merge each ``-c FILE``, the files that it extends, and classes and nulls among the flags.

    A later file wins: see `compose.merge`. A flag below `model` or `data` that names a class, or
    sets a null (``--model.towers.NAME null``), counts as such a file, as the parser keeps settings
    of the class before, and takes a null for settings within settings from a configuration only.
    Modules of the user's own, which ``--import`` or ``import`` in a file name, are imported.

    Args:
        verb: one of fit, validate, test and predict.
        arguments: what follows it.
    """
    values: dict[str, Any] = {}
    flags: list[str] = []
    name: str | None = None
    arguments, modules = take_imports(arguments)
    rest = list(reversed(_join_lists(arguments) if verb == "predict" else arguments))
    while rest:
        argument = rest.pop()
        flag, equals, value = argument.partition("=")
        if not equals:
            value = rest[-1] if rest else ""
        if flag in _CONFIG:
            rest = rest if equals else rest[:-1]
            if not value:
                raise UserError(f"{flag} needs the path of a config file")
            path = Path(value)
            if name is None:
                name = path.parent.parent.name if path.name == "config.yaml" else path.stem
            for layer in compose.expand(path):
                _check_top_keys(layer)
                # What the user's own file names is imported anyway; checkpoints may name it too.
                allow(_class_paths(layer.values))
                own = layer.values.pop(KEY, None)
                modules += names_of(own, where=f"config file {layer.path}: {KEY}")
                values = compose.merge(values, layer.values)
            continue
        key = flag.removeprefix("--")
        root, dot, _ = key.partition(".")
        if not flag.startswith("--") or root not in _BELOW or key in _TEXTS:
            flags.append(argument)
            continue
        place, is_renamed = _find_place(key, values)
        if dot and value in ("null", "None"):
            change = _nested(place, None)
        elif not key.endswith(".help") and (place[-1] == "class_path" or _is_class(value)):
            at = place if place[-1] == "class_path" else [*place, "class_path"]
            change = _nested(at, present_path(value))
        elif (named := _class_with_settings(value)) is not None:
            change = _nested(place, named)
        else:
            renamed = f"--{'.'.join(place)}{equals}{value * bool(equals)}"
            flags.append(renamed if is_renamed else argument)
            continue
        values = compose.merge(values, change)
        rest = rest if equals else rest[:-1]
    if modules := list(dict.fromkeys(modules)):
        bring_in(modules)
        values[KEY] = modules
    _complete_optimizers(values)
    return Given(values, flags, name or "run")


def _find_place(key: str, values: Mapping[str, Any]) -> tuple[list[str], bool]:
    """Find where a setting stands, and whether it had another name.

    A flag may leave `init_args` out, and use names of earlier versions.
    """
    node: Any = values
    path: list[str] = []
    owner: Any = None
    is_renamed = False
    for depth, part in enumerate(key.split(".")):
        inside = node if isinstance(node, Mapping) else {}
        if path[-1:] != ["init_args"]:
            owner = inside.get("class_path") if path[-1:] != ["optimizer"] else None
            is_class = isinstance(owner, str) or depth == 1
            if is_class and part not in ("init_args", "class_path", "dict_kwargs", "help"):
                path.append("init_args")
                found = inside.get("init_args")
                inside = found if isinstance(found, Mapping) else {}
        present = SETTINGS.get(str(owner), {}).get(part) if path[-1:] == ["init_args"] else None
        is_renamed |= present is not None
        path.append(present or part)
        node = inside.get(path[-1])
    return path, is_renamed


def _is_class(value: str) -> bool:
    return _CLASS.fullmatch(value) is not None and find_spec(value.partition(".")[0]) is not None


def _class_with_settings(text: str) -> dict[str, Any] | None:
    """Return a mapping that names a class, as a flag may give it; None of anything else."""
    value = None
    with suppress(yaml.YAMLError):  # the parser says what is wrong
        value = yaml_text.parse_value(text) if text.startswith("{") else None
    return value if isinstance(value, dict) and "class_path" in value else None


def _nested(place: Sequence[str], value: Any) -> dict[str, Any]:
    for part in reversed(place):
        value = {part: value}
    return dict(value)


def _complete_optimizers(values: dict[str, Any]) -> None:
    """Keep the parser from taking an optimiser's `class_path` and `init_args` for another class."""
    model = values.get("model")
    for part in (model, model.get("init_args") if isinstance(model, dict) else None):
        optimizer = part.get("optimizer") if isinstance(part, dict) else None
        if part and isinstance(optimizer, dict) and optimizer.get("class_path"):
            part["optimizer"] = {"fused": None, "init_args": {}} | optimizer


def _class_paths(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = value.get("class_path")
        found = [own] if isinstance(own, str) else []
        return found + [path for item in value.values() for path in _class_paths(item)]
    return [path for item in value for path in _class_paths(item)] if type(value) is list else []


def _join_lists(arguments: Sequence[str]) -> list[str]:
    """Join the values that follow ``--data.predict.files`` or ``.text`` into one, as a list.

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
        inside = flag in _LISTS
        values = [value] if equals else []
        joined.append(flag if inside else argument)
    return joined[:-1]
