"""The configuration that a checkpoint, or an exported folder, carries in itself."""

from pathlib import Path
from typing import Any

from mmlight.batch import MODALITIES
from mmlight.data.files import ENDINGS
from mmlight.errors import UserError
from mmlight.tasks.saved import read_saved

_MODULE = "mmlight.data.module.ShardDataModule"
_TOKENIZER = "mmlight.data.saved_tokenizer.SavedTokenizer"
# What the text settings of a checkpoint say of the tokenizer; the others are settings of the data.
_OF_TOKENIZER = ("tokenizer", "vocab_size")


def saved_config(path: Path) -> dict[str, Any]:
    """Return `model` and `data` for inputs prepared as in training, as YAML would hold them.

    Plain files are mapped by their endings; to read shards, name their members.

    Args:
        path: a checkpoint, or a folder that ``mmlight export`` wrote.

    Raises:
        UserError: no such file, or it does not say how inputs were prepared.
    """
    saved = read_saved(path)
    return {"model": saved.description, "data": data_config(saved.preprocessing, path=path)}


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
        kept = {k: v for k, v in given["text"].items() if k not in _OF_TOKENIZER}
        tokenizer = {"class_path": _TOKENIZER, "init_args": {"saved": str(path)}}
        settings["text"] = {"tokenizer": tokenizer, **kept}
    return {
        "class_path": _MODULE,
        "init_args": {
            "members": {name: list(ENDINGS[name]) for name in MODALITIES if name in given},
            **settings,
            "class_names": preprocessing.get("class_names") or None,
            "num_workers": 0,
        },
    }
