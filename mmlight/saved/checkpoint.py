"""What is on disk of a task: its description, its tensors and how its inputs are prepared.

It has three forms: a checkpoint in one file, a checkpoint in parts (`mmlight.saved.parts`), and the
folder that ``mmlight export`` writes, plain files that any program can read: `model.safetensors`
holds the state dict, `task.json` the description that rebuilds the task
(`mmlight.saved.description`), `preprocessing.json` how inputs are prepared, `checksums.json` the
checksums of all three. In none of them is anything run.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning import __version__ as lightning_version
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from mmlight.errors import UserError
from mmlight.files import write_bytes, write_json
from mmlight.saved.checksums import archive_damage, file_checksum, folder_damage, write_list
from mmlight.saved.locate import TASK, WEIGHTS, kind_of
from mmlight.saved.parts import find_damage, read_shards

CHECKPOINT_KEY = "mmlight"
CHECKPOINT_VERSION = 1
PREPROCESSING = "preprocessing.json"
_EXPORTED = (WEIGHTS, TASK, PREPROCESSING)
FORMAT = "mmlight-export"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Saved:
    """A task as it was saved.

    Attributes:
        description: what rebuilds it (`mmlight.saved.description`).
        preprocessing: how its inputs are prepared; plain values.
        tensors: its state dict.
    """

    description: dict[str, Any]
    preprocessing: dict[str, Any] | None
    tensors: dict[str, Tensor]


def read_saved(path: Path) -> Saved:
    """Read a checkpoint, in one file or in parts, or an export.

    Raises:
        UserError: no such file or folder, not one of mmlight, or damaged.
    """
    if kind_of(path) == "export":
        return read_export(path)
    checkpoint = read_checkpoint(path, states=False)
    own, tensors = checkpoint[CHECKPOINT_KEY], checkpoint.get("state_dict")
    if not isinstance(own, dict) or not isinstance(tensors, dict):
        raise UserError(f"checkpoint {path}: was not written by mmlight")
    return _as_saved(own.get("task"), own.get("preprocessing"), tensors, path=path)


def _as_saved(
    description: Any, preprocessing: Any, tensors: dict[Any, Any], *, path: Path
) -> Saved:
    """Return what a file holds if it has the form of it; what is named in it is not looked at."""
    arguments = description.get("init_args") if isinstance(description, dict) else None
    known = arguments if isinstance(arguments, dict) else {}
    parts = [known.get("towers"), known.get("tuning"), preprocessing]
    if (
        not isinstance(arguments, dict)
        or not isinstance(description.get("class_path"), str)
        or not all(part is None or isinstance(part, dict) for part in parts)
        or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in tensors.items())
    ):
        raise UserError(f"{path}: does not describe a task as mmlight does")
    return Saved(description, preprocessing, tensors)


def read_checkpoint(path: Path, *, mapped: bool = True, states: bool = True) -> dict[str, Any]:
    """Read what Lightning loads; only tensors and plain values are unpickled.

    Args:
        path: a checkpoint, in one file or in parts, or an export, which has the model alone.
        mapped: leave tensors in the file until they are used, where it is one file.
        states: also what optimisers and averages hold, where they are apart from the model.

    Raises:
        UserError: no such file, not a checkpoint, not one of mmlight, or damaged.
    """
    kind = kind_of(path)
    if kind is None:
        raise UserError(f"checkpoint {path}: no such file")
    if kind == "export":
        saved = read_export(path)
        return {
            CHECKPOINT_KEY: own_entry(saved.description, saved.preprocessing),
            "pytorch-lightning_version": lightning_version,
            "state_dict": saved.tensors,
        }
    problem = find_damage(path) if kind == "parts" else archive_damage(path)
    if problem is not None:
        raise UserError(f"checkpoint {path}: {problem}")
    try:
        if kind == "parts":
            checkpoint = read_shards(path, states=states)
        else:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except UnpicklingError as error:
        raise UserError(
            f"checkpoint {path}: holds more than tensors and plain values, or is damaged; nothing "
            "of it was run"
        ) from error
    except Exception as error:  # torch raises several kinds for a damaged file
        said = str(error).split(".")[0].split("\n")[0]
        raise UserError(f"checkpoint {path}: is damaged or cut short ({said})") from error
    if not isinstance(checkpoint, dict) or CHECKPOINT_KEY not in checkpoint:
        raise UserError(
            f"checkpoint {path}: was not written by mmlight (one of open_clip needs "
            "open_clip_config.json beside it, or `mmlight import --arch`)"
        )
    return checkpoint


def check_whole(path: Path) -> None:
    """Refuse what is damaged; all of its bytes are compared with their checksums.

    Raises:
        UserError: no such file, not a checkpoint or an export of mmlight, or damaged.
    """
    if kind_of(path) != "parts":
        read_checkpoint(path)
    elif (problem := find_damage(path)) is not None:
        raise UserError(f"checkpoint {path}: {problem}")


def own_entry(description: dict[str, Any], preprocessing: Any) -> dict[str, Any]:
    """Return what a checkpoint holds, besides Lightning's entries, under `CHECKPOINT_KEY`."""
    return {
        "version": CHECKPOINT_VERSION,
        "task": description,
        "preprocessing": preprocessing,
    }


def write_export(folder: Path, saved: Saved) -> None:
    """Write a task's tensors, description and preprocessing.

    Args:
        folder: where; it is made.
        saved: the task; without adapters, which a description of weights alone cannot rebuild.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(
        folder / TASK, {"format": FORMAT, "version": FORMAT_VERSION, "task": saved.description}
    )
    write_json(folder / PREPROCESSING, saved.preprocessing)
    # Tied weights become copies: safetensors refuses tensors that share memory.
    tensors = {
        name: tensor.detach().cpu().clone().contiguous() for name, tensor in saved.tensors.items()
    }
    write_bytes(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    write_list(folder, {name: file_checksum(folder / name) for name in _EXPORTED})


def read_export(folder: Path) -> Saved:
    """Read what `write_export` wrote; nothing is unpickled.

    Raises:
        UserError: a file is missing or damaged, or the folder is of a later version.
    """
    problem = folder_damage(folder, names=_EXPORTED)
    if problem is not None:
        raise UserError(f"{folder}: {problem}")
    about = _read_json(folder / TASK, folder)
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise UserError(f"{folder}: {TASK} was not written by mmlight export")
    if about.get("version") != FORMAT_VERSION:
        raise UserError(
            f"{folder}: was written in version {about.get('version')} of the format; this mmlight "
            f"reads version {FORMAT_VERSION}"
        )
    preprocessing = _read_json(folder / PREPROCESSING, folder)
    try:
        tensors: dict[str, Tensor] = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: {WEIGHTS} cannot be read ({error})") from error
    return _as_saved(about.get("task"), preprocessing, tensors, path=folder)


def _read_json(path: Path, folder: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{folder}: {path.name} cannot be read ({error})") from error


def different_tensors(saved: dict[str, Tensor], wanted: dict[str, Tensor]) -> str:
    """Return how two state dicts differ, naming tensors; empty where they do not."""
    missing = [name for name in wanted if name not in saved]
    extra = [name for name in saved if name not in wanted]
    shapes = [
        f"{name} is {tuple(saved[name].shape)}, not {tuple(wanted[name].shape)}"
        for name in wanted
        if name in saved and saved[name].shape != wanted[name].shape
    ]
    problems = []
    for title, names in (("lacks", missing), ("has besides", extra), ("differs:", shapes)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            problems.append(f"it {title} {', '.join(names[:3])}{more}")
    return "; ".join(problems)


def check_same_model(saved: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Raise UserError, naming tensors, unless two state dicts have equal names and shapes."""
    problem = different_tensors(saved, wanted)
    if problem:
        raise UserError(f"the checkpoint is of another model: {problem}")
