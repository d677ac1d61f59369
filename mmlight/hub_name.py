"""Tells the path of a folder that is not there from the name of a model on a hub."""

import os
from pathlib import Path

from mmlight.errors import UserError, nearest

# Where the experiments keep what is made for them; no owner on the hub is called so.
_OURS = ("data", "runs")


def check_hub_name(name: str, *, key: str) -> None:
    """Refuse what is meant as a path and does not exist, before a hub is asked for it five times.

    A name of the hub is ``NAME`` or ``OWNER/NAME``. What has more parts, begins with a dot, a slash
    or a tilde, or lies in ``data``, ``runs`` or a folder that is there is a path.

    Args:
        name: what a setting holds.
        key: the setting, for messages.

    Raises:
        UserError: there is no such file or folder.
    """
    path = Path(name).expanduser()
    if path.exists() or name.startswith("hf-hub:"):
        return
    parts = name.rstrip("/").split("/")
    is_path = len(parts) > 2 or name.startswith((".", "/", "~")) or name.endswith(("/", ".json"))
    above = path.parent
    if not is_path and not (len(parts) == 2 and (parts[0] in _OURS or above.is_dir())):
        return
    near = nearest(path.name, os.listdir(above)) if above.is_dir() else ""
    raise UserError(f"{key}: there is no file or folder {name}{near}")
