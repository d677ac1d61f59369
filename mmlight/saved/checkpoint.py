"""What is on disk of a task: its description, its tensors and how its inputs are prepared."""

from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from mmlight.errors import UserError
from mmlight.saved.checksums import archive_damage
from mmlight.saved.parts import find_damage, is_sharded, read_shards

CHECKPOINT_KEY = "mmlight"
CHECKPOINT_VERSION = 1


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
    """Read a checkpoint, or the folder that ``mmlight export`` writes.

    Raises:
        UserError: no such file or folder, not one of mmlight, or damaged.
    """
    if path.is_dir() and not is_sharded(path):
        from mmlight.saved.exported import read_export

        return read_export(path)
    checkpoint = read_checkpoint(path)
    own, tensors = checkpoint[CHECKPOINT_KEY], checkpoint.get("state_dict")
    if not isinstance(own, dict) or not isinstance(tensors, dict):
        raise UserError(f"checkpoint {path}: was not written by mmlight")
    return as_saved(own.get("task"), own.get("preprocessing"), tensors, path=path)


def as_saved(description: Any, preprocessing: Any, tensors: dict[Any, Any], *, path: Path) -> Saved:
    """Return what a file holds if it has the form of it; what is named in it is not looked at.

    Raises:
        UserError: it has not.
    """
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


def read_checkpoint(path: Path, *, mapped: bool = True) -> dict[str, Any]:
    """Read a checkpoint, in one file or in parts; only tensors and plain values are unpickled.

    Args:
        path: the file or folder.
        mapped: leave tensors in the file until they are used, where it is one file.

    Raises:
        UserError: no such file, not a checkpoint, not one of mmlight, or damaged.
    """
    if not path.is_file() and not is_sharded(path):
        raise UserError(f"checkpoint {path}: no such file")
    problem = find_damage(path) if path.is_dir() else archive_damage(path)
    if problem is not None:
        raise UserError(f"checkpoint {path}: {problem}")
    try:
        if path.is_dir():
            checkpoint = read_shards(path)
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
        raise UserError(f"checkpoint {path}: was not written by mmlight")
    return checkpoint


def check_whole(path: Path) -> None:
    """Refuse a checkpoint that is damaged; all of its bytes are compared with their checksums.

    Raises:
        UserError: no such file, not a checkpoint, not one of mmlight, or damaged.
    """
    if not path.is_dir():
        read_checkpoint(path)
        return
    problem = find_damage(path)
    if problem is not None:
        raise UserError(f"checkpoint {path}: {problem}")


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
