"""Reads a model of open_clip."""

from pathlib import Path

from mmlight.errors import UserError
from mmlight.saved.checkpoint import Saved


def read_open_clip(path: Path, *, key: str, arch: str | None = None) -> Saved:
    """Read a folder or a checkpoint of open_clip.

    Raises:
        UserError: it cannot be read.
    """
    raise UserError(f"{key}: {path} is a model of open_clip, which cannot be read yet")
