"""What a path is: a run's folder, a checkpoint, a checkpoint in parts or an export."""

from pathlib import Path

from mmlight.errors import UserError
from mmlight.runs.run.ckpt_path import best_checkpoint, own_starts
from mmlight.runs.run.folder import Run
from mmlight.saved.parts import is_sharded


def find_saved(given: str, *, key: str) -> Path:
    """Return the checkpoint of a run folder, or the path itself for a file or an export.

    Args:
        given: a run folder (its newest checkpoint is taken), the folder of an experiment's runs
            (the newest start of its own is), either of them with ``/last`` or ``/best`` behind it,
            a checkpoint file, or an exported folder.
        key: the setting's name, for messages.

    Raises:
        UserError: there is no such thing.
    """
    path = Path(given).expanduser()
    if path.is_file() or (path / "model.safetensors").is_file() or is_sharded(path):
        return path
    word = path.name if path.name in ("last", "best") and not path.exists() else None
    folder = path.parent if word else path
    if not folder.is_dir():
        raise UserError(
            f"{key}: {given}: no such run folder, checkpoint or exported folder{_of_a_hub(key)}"
        )
    run = Run(folder)
    if not run.checkpoints.is_dir():
        saved = [start for start in own_starts(folder) if start.newest_checkpoint() is not None]
        run = saved[-1] if saved else run
    if word == "best":
        return best_checkpoint(run, key=f"{key}: {given}").path
    newest = run.newest_checkpoint()
    if newest is None:
        raise UserError(f"{key}: {given} holds no complete checkpoint (checkpoints/*.ckpt)")
    return newest


def _of_a_hub(key: str) -> str:
    if not key.endswith(".from_run"):
        return ""
    return (
        " (weights of timm or the hub are named in the tower's encoder: timm_pretrained: true, "
        "text_pretrained: NAME, audio_pretrained: NAME)"
    )
