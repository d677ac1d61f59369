"""The folder that ``mmlight export`` writes: a task as plain files that any program can read.

`model.safetensors` holds the state dict, `task.json` the description that rebuilds the task
(`mmlight.saved.description`), `preprocessing.json` how inputs are prepared, `checksums.json` the
checksums of all three.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from mmlight.errors import UserError
from mmlight.files import write_bytes, write_json
from mmlight.saved.checkpoint import Saved, as_saved
from mmlight.saved.checksums import file_checksum, folder_damage, write_list

WEIGHTS = "model.safetensors"
TASK = "task.json"
PREPROCESSING = "preprocessing.json"
_FILES = (WEIGHTS, TASK, PREPROCESSING)
FORMAT = "mmlight-export"
VERSION = 1


def write_export(folder: Path, saved: Saved) -> None:
    """Write a task's tensors, description and preprocessing.

    Args:
        folder: where; it is made.
        saved: the task; without adapters, which a description of weights alone cannot rebuild.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / TASK, {"format": FORMAT, "version": VERSION, "task": saved.description})
    write_json(folder / PREPROCESSING, saved.preprocessing)
    # Tied weights become copies: safetensors refuses tensors that share memory.
    tensors = {
        name: tensor.detach().cpu().clone().contiguous() for name, tensor in saved.tensors.items()
    }
    write_bytes(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    write_list(folder, {name: file_checksum(folder / name) for name in _FILES})


def read_export(folder: Path) -> Saved:
    """Read what `write_export` wrote; nothing is unpickled.

    Raises:
        UserError: a file is missing or damaged, or the folder is of a later version.
    """
    problem = folder_damage(folder, names=_FILES)
    if problem is not None:
        raise UserError(f"{folder}: {problem}")
    about = _read_json(folder / TASK, folder)
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise UserError(f"{folder}: {TASK} was not written by mmlight export")
    if about.get("version") != VERSION:
        raise UserError(
            f"{folder}: was written in version {about.get('version')} of the format; this mmlight "
            f"reads version {VERSION}"
        )
    preprocessing = _read_json(folder / PREPROCESSING, folder)
    try:
        tensors: dict[str, Tensor] = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: {WEIGHTS} cannot be read ({error})") from error
    return as_saved(about.get("task"), preprocessing, tensors, path=folder)


def _read_json(path: Path, folder: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{folder}: {path.name} cannot be read ({error})") from error
