"""What a path is: the folder of a run, a checkpoint, a checkpoint in parts or an export.

Works without torch.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mmlight.errors import UserError
from mmlight.runs.run.ckpt_path import best_checkpoint, own_starts
from mmlight.runs.run.folder import Run

# A checkpoint in parts, and an export: the files that tell them.
META, METADATA = "meta.pt", ".metadata"
WEIGHTS, TASK = "model.safetensors", "task.json"

Kind = Literal["file", "parts", "export"]


@dataclass(frozen=True)
class Found:
    """What a path stands for.

    Attributes:
        path: the checkpoint or the export.
        kind: a checkpoint in one file, one in parts, or an export.
        run: the run that the checkpoint lies in, if it lies in one.
    """

    path: Path
    kind: Kind
    run: Run | None


def kind_of(path: Path) -> Kind | None:
    """Return what a path is by itself; None for the folder of a run, and for what is not there."""
    if path.is_file():
        return "file"
    if (path / METADATA).is_file() or (path / META).is_file():
        return "parts"
    return "export" if (path / WEIGHTS).is_file() or (path / TASK).is_file() else None


def locate(given: str | Path, *, key: str) -> Found:
    """Find the checkpoint, or the export, that a path stands for.

    Args:
        given: a run folder (its newest checkpoint is taken), the folder of an experiment's runs
            (the newest start of its own is), either of them with ``/last`` or ``/best`` behind it,
            a checkpoint, in one file or in parts, or an exported folder.
        key: the setting's name, for messages.

    Raises:
        UserError: there is no such thing.
    """
    path = Path(given).expanduser()
    kind = kind_of(path)
    if kind is None:
        path = _of_run(path, key=f"{key}: {given}", hint=_of_a_hub(key))
        kind = kind_of(path)
        assert kind is not None, "a run's checkpoint is whole"
    place = path.absolute().parent
    in_run = kind != "export" and place.name == "checkpoints"
    return Found(path, kind, Run(place.parent) if in_run else None)


def _of_run(path: Path, *, key: str, hint: str) -> Path:
    word = path.name if path.name in ("last", "best") and not path.exists() else None
    folder = path.parent if word else path
    if not folder.is_dir():
        raise UserError(f"{key}: no such run folder, checkpoint or exported folder{hint}")
    run = Run(folder)
    if not run.checkpoints.is_dir():
        saved = [start for start in own_starts(folder) if start.newest_checkpoint() is not None]
        run = saved[-1] if saved else run
    if word == "best":
        return best_checkpoint(run, key=key).path
    newest = run.newest_checkpoint()
    if newest is None:
        raise UserError(f"{key} holds no complete checkpoint (checkpoints/*.ckpt)")
    return newest


def _of_a_hub(key: str) -> str:
    if not key.endswith(".from_run"):
        return ""
    return (
        " (weights of timm or the hub are named in the tower's encoder: pretrained: true, or "
        "pretrained: NAME)"
    )
