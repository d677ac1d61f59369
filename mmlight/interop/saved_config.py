"""The configuration that a checkpoint, or an exported folder, carries in itself."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmlight.data.module import ShardDataModule
from mmlight.data.splits.plain_files import ENDINGS
from mmlight.data.text import TextSettings
from mmlight.errors import UserError
from mmlight.modality import MODALITIES
from mmlight.published.read import read_model
from mmlight.published.saved_tokenizer import SavedTokenizer
from mmlight.saved.rebuild import check_description, rebuild_settings
from mmlight.tasks.task import Task
from mmlight.text.saved_tokenizer import tokenizer_from_state

_MODULE = "mmlight.data.module.ShardDataModule"
_TASK = "mmlight.tasks.load.saved_task"
_TOKENIZER = f"{SavedTokenizer.__module__}.{SavedTokenizer.__qualname__}"
# What the text settings of a checkpoint say of the tokenizer; the others are settings of the data.
_OF_TOKENIZER = ("tokenizer", "vocab_size")


def saved_config(path: Path) -> dict[str, Any]:
    """Return `model` and `data` for inputs prepared as in training, as YAML would hold them.

    Plain files are mapped by their endings; to read shards, name their members.

    Args:
        path: a checkpoint or an export.

    Raises:
        UserError: no such file, or it does not say how inputs were prepared.
    """
    _, saved = read_model(path, key="path")
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
    plain = _without_tokenizer(kept, where="the checkpoint's")
    settings: TextSettings = rebuild_settings(plain, TextSettings, key="data.text")
    state = kept.get("tokenizer")
    return replace(settings, tokenizer=None if state is None else tokenizer_from_state(state))


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
    kept = {name: preprocessing[name] for name in MODALITIES if preprocessing.get(name)}
    members = {name: list(ENDINGS[name]) for name in kept}
    if "text" in kept:
        plain = _without_tokenizer(kept["text"], where=f"{path}: its")
        if kept["text"].get("tokenizer"):  # a published model's may not be at hand
            plain["tokenizer"] = {"class_path": _TOKENIZER, "init_args": {"saved": str(path)}}
        kept["text"] = plain
    return {
        "class_path": _MODULE,
        "init_args": {
            "members": members,
            **kept,
            "class_names": plain_names(preprocessing) or None,
            "num_workers": 0,
        },
    }


def _without_tokenizer(kept: Any, *, where: str) -> dict[str, Any]:
    if not isinstance(kept, Mapping):
        raise UserError(f"{where} data.text is not what mmlight writes")
    return {key: value for key, value in kept.items() if key not in _OF_TOKENIZER}
