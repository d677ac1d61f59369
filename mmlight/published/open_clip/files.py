"""The files of a model of open_clip: which there are, and what they hold."""

import importlib.util
import json
from pathlib import Path
from typing import Any

from mmlight.errors import UserError, nearest

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
# The config of a text tower of transformers, where open_clip only names it.
TEXT_CONFIG = "text_config.json"
_ENDINGS = (".safetensors", ".bin", ".pt", ".pth")
# In the order in which open_clip itself looks for them.
_USUAL = (
    WEIGHTS,
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)


def is_open_clip(path: Path) -> bool:
    """Say whether a path is a folder of open_clip, or one of its checkpoints beside its config."""
    if path.is_file():
        return path.suffix in _ENDINGS and (path.parent / CONFIG).is_file()
    return (path / CONFIG).is_file()


def find_weights(path: Path, *, key: str) -> Path:
    """Return the file of weights that a path stands for.

    Raises:
        UserError: there is none, or several and none by a usual name.
    """
    if path.is_file():
        return path
    usual = next((path / name for name in _USUAL if (path / name).is_file()), None)
    if usual is not None:
        return usual
    found = sorted(one for one in path.glob("*") if one.suffix in _ENDINGS and one.is_file())
    if len(found) != 1:
        what = f"{len(found)} files of weights: name one of them" if found else "no weights"
        raise UserError(f"{key}: {path} has {what} ({', '.join(_USUAL[:2])}, ...)")
    return found[0]


def read_config(path: Path, *, key: str, arch: str | None) -> tuple[dict[str, Any], str]:
    """Return a model's config and what it is called in messages.

    Args:
        path: the folder, or the checkpoint.
        key: the setting's name, for messages.
        arch: a file of a model's config, or the name of a model of the installed open_clip, in
            place of the config beside the weights.

    Returns:
        ``model_cfg`` and ``preprocess_cfg``; the second is empty for a config of a model alone.

    Raises:
        UserError: there is none, or it is no config.
    """
    file = (path if path.is_dir() else path.parent) / CONFIG
    if arch is not None:
        file = Path(arch) if arch.endswith(".json") else _installed(arch, key=key)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        said = "no such file" if isinstance(error, FileNotFoundError) else str(error)[:200]
        raise UserError(f"{key}: {file} cannot be read ({said})") from error
    if not isinstance(found, dict):
        raise UserError(f"{key}: {file} holds no config of open_clip")
    if "model_cfg" not in found:
        found = {"model_cfg": found, "preprocess_cfg": {}}
    return found, f"{key}: {file}"


def text_config(path: Path, *, key: str) -> dict[str, Any] | None:
    """Return the config of the text tower's model of transformers, where it lies beside."""
    file = (path if path.is_dir() else path.parent) / TEXT_CONFIG
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{key}: {file} cannot be read ({str(error)[:200]})") from error
    if not isinstance(found, dict) or not isinstance(found.get("model_type"), str):
        raise UserError(f"{key}: {file} holds no config of transformers: it has no model_type")
    return found


def _installed(arch: str, *, key: str) -> Path:
    """Find a model's config in the installed open_clip, which is not imported."""
    spec = importlib.util.find_spec("open_clip")
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not places:
        raise UserError(
            f"{key}: --arch {arch}: open_clip is not installed; give a file: --arch CONFIG.json"
        )
    folder = Path(places[0]) / "model_configs"
    known = {file.stem: file for file in folder.glob("*.json")}
    if arch not in known:
        raise UserError(f"{key}: --arch {arch}: open_clip has no such model{nearest(arch, known)}")
    return known[arch]
