"""Reads a model from wherever it comes: a run, an export, or what another project published.

Nothing of a file is run, imported or taken as a configuration: a reader turns what it knows into
the description that a checkpoint of mmlight holds, and refuses the rest.
"""

from dataclasses import replace
from pathlib import Path

from mmlight.errors import UserError
from mmlight.hub_name import hub_name
from mmlight.published.hf.folder import CONFIG as HF_CONFIG
from mmlight.published.hf.folder import is_transformers
from mmlight.published.hf.read import read_transformers
from mmlight.published.hub import fetch_model
from mmlight.published.open_clip.files import CONFIG as OPEN_CLIP_CONFIG
from mmlight.published.open_clip.files import is_open_clip
from mmlight.published.open_clip.read import read_open_clip
from mmlight.saved.checkpoint import Saved, read_saved
from mmlight.saved.locate import TASK, locate

# Under this key the preprocessing of a model that mmlight did not train says whose it is:
# ``{"format": "open_clip", "name": "ViT-B-32"}``. Nothing is known of the rates it learned at.
PUBLISHED = "published"


def read_model(given: str | Path, *, key: str, arch: str | None = None) -> tuple[Path, Saved]:
    """Read a model of mmlight, open_clip or transformers; the files say which it is.

    Args:
        given: a run's folder, a checkpoint or an export (see `mmlight.saved.locate.locate`), a
            folder or a checkpoint of open_clip, a folder of transformers, or any of these on the
            hub, as ``OWNER/NAME`` or ``OWNER/NAME@REVISION``.
        key: the setting's name, for messages.
        arch: what a checkpoint of open_clip without a config is of: the name of a model of the
            installed open_clip, or a file of a model's config.

    Returns:
        What was read, and the model.

    Raises:
        UserError: there is no such thing, it is damaged, or not a model that can be read.
    """
    path = Path(given).expanduser()
    if (name := hub_name(str(given))) is not None:
        path = fetch_model(name, key=key)
        given = path
    if arch is not None or is_open_clip(path):
        return path, read_open_clip(path, key=key, arch=arch)
    if is_transformers(path) and not (path / TASK).is_file():
        saved = read_transformers(path, key=key)
        whose = {PUBLISHED: {"format": "transformers", "name": path.absolute().name}}
        return path, replace(saved, preprocessing=(saved.preprocessing or {}) | whose)
    found = locate(given, key=key)
    if found.kind == "file" and found.path.suffix in (".safetensors", ".bin"):
        raise UserError(
            f"{key}: {found.path} is weights alone; {OPEN_CLIP_CONFIG}, or {HF_CONFIG} of "
            "transformers, beside them says of what (name the folder), or `mmlight import --arch`"
        )
    if found.kind == "export" and not (found.path / TASK).is_file():
        raise UserError(
            f"{key}: {found.path} holds weights, and no file that says of what: {TASK} (mmlight), "
            f"{HF_CONFIG} (transformers) or {OPEN_CLIP_CONFIG}"
        )
    return found.path, read_saved(found.path)
