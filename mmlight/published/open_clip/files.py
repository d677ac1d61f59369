"""The files of a model of open_clip: which there are, and what they hold."""

from pathlib import Path

CONFIG = "open_clip_config.json"
_ENDINGS = (".safetensors", ".bin", ".pt", ".pth")


def is_open_clip(path: Path) -> bool:
    """Say whether a path is a folder of open_clip, or one of its checkpoints beside its config."""
    if path.is_file():
        return path.suffix in _ENDINGS and (path.parent / CONFIG).is_file()
    return (path / CONFIG).is_file()
