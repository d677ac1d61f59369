"""The configuration that a checkpoint, or an exported folder, carries in itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmlight.batch import MODALITIES
from mmlight.data.module import ShardDataModule
from mmlight.data.splits.plain_files import ENDINGS
from mmlight.data.text import TextSettings
from mmlight.errors import UserError
from mmlight.saved.checkpoint import read_saved
from mmlight.saved.locate import locate
from mmlight.saved.rebuild import check_description, rebuild_settings
from mmlight.tasks.task import Task
from mmlight.text.saved_tokenizer import tokenizer_from_state

_MODULE = "mmlight.data.module.ShardDataModule"
_TASK = "mmlight.tasks.task.saved_task"
_TOKENIZER = "mmlight.text.saved_tokenizer.SavedTokenizer"
# What the text settings of a checkpoint say of the tokenizer; the others are settings of the data.
_OF_TOKENIZER = ("tokenizer", "vocab_size")


@dataclass(frozen=True)
class OwnConfig:
    """What a command runs with that names a checkpoint and no config.

    Attributes:
        values: the configuration, as YAML would hold it; empty without a checkpoint.
        arguments: the arguments, with the checkpoint's file in place of its run's folder.
        name: the experiment's name.
    """

    values: dict[str, Any]
    arguments: list[str]
    name: str


def own_config(arguments: Sequence[str]) -> OwnConfig:
    """Take model and data preparation from the checkpoint that ``--ckpt_path`` names.

    Args:
        arguments: of ``mmlight predict``.

    Raises:
        UserError: no such checkpoint, or nothing to predict on.
    """
    given = list(arguments)
    for place, argument in enumerate(given):
        flag, equals, value = argument.partition("=")
        if flag != "--ckpt_path":
            continue
        if not equals:
            value = given.pop(place + 1) if place + 1 < len(given) else ""
        if value in ("last", "best"):
            raise UserError(
                f"predict --ckpt_path {value} needs -c CONFIG, whose newest run is meant; or name "
                f"a checkpoint or a run's folder (RUN_FOLDER/{value})"
            )
        found = locate(value, key="--ckpt_path")
        if not any(argument.startswith("--data.") for argument in given):
            raise UserError("predict needs something to read: --data.predict.files PATH")
        given[place] = f"--ckpt_path={found.path}"
        name = found.run.name if found.run is not None else ""
        return OwnConfig(saved_config(found.path), given, name or "predict")
    return OwnConfig({}, given, "predict")


def saved_config(path: Path) -> dict[str, Any]:
    """Return `model` and `data` for inputs prepared as in training, as YAML would hold them.

    Plain files are mapped by their endings; to read shards, name their members.

    Args:
        path: a checkpoint or an export.

    Raises:
        UserError: no such file, or it does not say how inputs were prepared.
    """
    saved = read_saved(path)
    data = data_config(saved.preprocessing, path=path)
    # Before a parser of configurations sees any of it.
    check_description(saved.description, base=Task)
    check_description(data, base=ShardDataModule)
    model = {"class_path": _TASK, "init_args": {"saved": str(path)}}
    return {"model": model, "data": data}


def kept_text(kept: Any) -> TextSettings:
    """Return how texts were prepared.

    Args:
        kept: what a checkpoint says of it.

    Raises:
        UserError: settings of another form.
    """
    if not isinstance(kept, Mapping):
        raise UserError("the checkpoint's data.text is not what mmlight writes")
    plain = {key: value for key, value in kept.items() if key not in _OF_TOKENIZER}
    plain["tokenizer"] = {"class_path": "mmlight.text.tokenizer.ByteTokenizer"}
    settings: TextSettings = rebuild_settings(plain, TextSettings, key="data.text")
    return replace(settings, tokenizer=tokenizer_from_state(kept.get("tokenizer")))


def plain_names(preprocessing: Mapping[str, Any]) -> list[str]:
    """Return the names of classes; in a configuration one text would be a file of names.

    Raises:
        UserError: they are no list of texts.
    """
    names = preprocessing.get("class_names") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError("the checkpoint's data.class_names must be a list of names")
    return names


def data_config(preprocessing: dict[str, Any] | None, *, path: Path) -> dict[str, Any]:
    """Return the data part alone.

    Args:
        preprocessing: what the file says of it.
        path: the file, which holds the tokenizer.
    """
    if preprocessing is None:
        raise UserError(f"{path}: does not say how its inputs were prepared; give -c CONFIG")
    given: dict[str, Any] = {
        name: preprocessing[name] for name in MODALITIES if preprocessing.get(name)
    }
    settings: dict[str, Any] = dict(given)
    if "text" in given:
        if not isinstance(given["text"], Mapping):
            raise UserError(f"{path}: its data.text is not what mmlight writes")
        kept = {k: v for k, v in given["text"].items() if k not in _OF_TOKENIZER}
        tokenizer = {"class_path": _TOKENIZER, "init_args": {"saved": str(path)}}
        settings["text"] = kept | {"tokenizer": tokenizer}
    return {
        "class_path": _MODULE,
        "init_args": {
            "members": {name: list(ENDINGS[name]) for name in MODALITIES if name in given},
            **settings,
            "class_names": plain_names(preprocessing) or None,
            "num_workers": 0,
        },
    }
