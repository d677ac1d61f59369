"""What is on disk of a task: its description, its tensors and how its inputs are prepared."""

from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from mmlight.errors import UserError
from mmlight.tasks.sharded import find_damage, is_sharded, read_shards

CHECKPOINT_KEY = "mmlight"
CHECKPOINT_VERSION = 1


@dataclass(frozen=True)
class Saved:
    """A task as it was saved.

    Attributes:
        description: what rebuilds it (`mmlight.tasks.spec`).
        preprocessing: how its inputs are prepared; plain values.
        tensors: its state dict.
    """

    description: dict[str, Any]
    preprocessing: dict[str, Any] | None
    tensors: dict[str, Tensor]


def read_saved(path: Path) -> Saved:
    """Read a checkpoint, or the folder that ``mmlight export`` writes.

    Raises:
        UserError: no such file or folder, or not one of mmlight.
    """
    if path.is_dir() and not is_sharded(path):
        from mmlight.tasks.exported import read_export

        return read_export(path)
    checkpoint = read_checkpoint(path)
    own = checkpoint[CHECKPOINT_KEY]
    return Saved(own["task"], own["preprocessing"], checkpoint["state_dict"])


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, in one file or in parts; only tensors and plain values are unpickled.

    Raises:
        UserError: no such file, not a checkpoint, or not one of mmlight.
    """
    if not path.is_file() and not is_sharded(path):
        raise UserError(f"checkpoint {path}: no such file")
    try:
        if path.is_dir():
            return read_shards(path)
        # Mapped: a check of what it is must not read gigabytes that Lightning reads again.
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
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
    """Refuse a checkpoint that is damaged, without reading its tensors.

    Of a checkpoint in one file the directory and everything but the tensors is read; of one in
    parts the sizes of its files are compared with what the ranks wrote.

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
