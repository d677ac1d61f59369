"""The files of a folder of transformers; nothing in them is run, imported or named."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from mmlight.errors import UserError
from mmlight.published.weights import read_weights

CONFIG = "config.json"
PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
WEIGHTS = "model.safetensors"
_WHOLE = (WEIGHTS, "pytorch_model.bin")
_TOKENIZERS = (TOKENIZER, "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")


def is_transformers(path: Path) -> bool:
    """Say whether a path is a folder with the config of a model of transformers."""
    return (path / CONFIG).is_file()


def read_config(folder: Path, *, key: str) -> dict[str, Any]:
    """Return the model's config.

    Raises:
        UserError: it cannot be read, or names no model of transformers.
    """
    config = read_json(folder / CONFIG, key=key)
    if not isinstance(config.get("model_type"), str):
        raise UserError(f"{key}: {folder / CONFIG} names no model_type of transformers")
    return config


def read_json(path: Path, *, key: str) -> dict[str, Any]:
    """Return what a file holds; empty where there is none.

    Raises:
        UserError: it is damaged.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{key}: {path} cannot be read ({error})") from error
    if not isinstance(found, dict):
        raise UserError(f"{key}: {path} is no mapping")
    return found


def read_preprocessor(folder: Path, part: str, *, key: str) -> dict[str, Any]:
    """Return what is said of the preparation of images or sounds; empty where nothing is.

    Args:
        folder: the folder.
        part: ``image_processor`` or ``feature_extractor``: its name where a file has all of them.
        key: the setting that names the folder, for messages.
    """
    whole = read_json(folder / PROCESSOR, key=key).get(part)
    return read_json(folder / PREPROCESSOR, key=key) or (whole if isinstance(whole, dict) else {})


def has_tokenizer(folder: Path) -> bool:
    """Say whether a folder holds a tokenizer."""
    return any((folder / name).is_file() for name in _TOKENIZERS)


def read_tensors(folder: Path, *, key: str) -> dict[str, Tensor]:
    """Return a model's tensors, in float32 where they are floats.

    Raises:
        UserError: there are none, a part of them is missing, or they hold more than tensors.
    """
    for name in _WHOLE:
        if (folder / name).is_file():
            return read_weights(folder / name, key=key)
        index = read_json(folder / f"{name}.index.json", key=key).get("weight_map")
        if isinstance(index, dict):
            return _read_parts(folder, index, key=key)
    raise UserError(f"{key}: {folder} has no weights ({' or '.join(_WHOLE)})")


def _read_parts(folder: Path, index: dict[str, Any], *, key: str) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for part in sorted({str(value) for value in index.values()}):
        if Path(part).name != part or not (folder / part).is_file():
            raise UserError(f"{key}: {folder} lacks {part!r:.80}, a part of its weights")
        tensors |= read_weights(folder / part, key=key)
    return tensors
