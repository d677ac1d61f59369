"""Tells the path of a folder that is not there from the name of a model on a hub."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from mmlight.errors import UserError, nearest

# Where the experiments keep what is made for them; no owner on the hub is called so.
_OURS = ("data", "runs")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
# Ends of what can only be a path.
_OF_FILES = (".ckpt", ".pt", ".pth", ".bin", ".safetensors", ".json", ".yaml")


@dataclass(frozen=True)
class HubName:
    """A repository on a hub.

    Attributes:
        repository: ``OWNER/NAME``.
        revision: a branch, a tag or a commit; None is the main branch.
    """

    repository: str
    revision: str | None


def hub_name(given: str) -> HubName | None:
    """Return what ``OWNER/NAME`` or ``OWNER/NAME@REVISION`` stands for; None for a path.

    Paths are whatever is there, lies in ``data``, ``runs`` or a folder that is there, or ends as a
    file or as the ``last`` or ``best`` of a run.
    """
    name, _, revision = given.partition("@")
    if not _REPOSITORY.fullmatch(name) or Path(given).exists() or Path(name).exists():
        return None
    owner, own = name.split("/")
    if owner in _OURS or Path(owner).is_dir() or own in ("last", "best"):
        return None
    if own.endswith(_OF_FILES) or (not revision and given.endswith("@")):
        return None
    return HubName(name, revision or None)


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
