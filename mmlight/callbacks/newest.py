"""The checkpoint from which a run goes on by itself (`--ckpt_path auto`)."""

import logging
import shutil
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from mmlight.errors import UserError
from mmlight.runs.run import RunFolder
from mmlight.tasks.saved import check_whole
from mmlight.terminal import one_line

_log = logging.getLogger(__name__)


def find_whole(run: RunFolder) -> Path | None:
    """Return the newest checkpoint of this very run that is whole; None where there is none.

    Damaged ones are passed over with a warning and, on rank 0, renamed to ``.NAME.damaged``, since
    their step will be saved again. What a killed process left half written is removed.

    Args:
        run: the run; no job but this one writes to it.
    """
    found: Path | None = None
    damaged: list[str] = []
    for path in run.checkpoints_by_age():
        try:
            check_whole(path)
        except UserError as error:
            damaged.append(str(error))
            _put_aside(path)
        else:
            found = path
            break
    for problem in damaged:
        _warn(problem)
    if damaged:
        _warn(f"going on from {found}" if found else "no checkpoint is whole: starting afresh")
    _clean(run.checkpoints)
    return found


@rank_zero_only
def _warn(text: str) -> None:
    _log.warning("mmlight: %s", one_line(" ".join(text.split())))


@rank_zero_only
def _put_aside(path: Path) -> None:
    aside = path.with_name(f".{path.name}.damaged")
    if aside.is_dir():
        shutil.rmtree(aside)
    path.replace(aside)


@rank_zero_only
def _clean(folder: Path) -> None:
    for part in folder.glob(".*.part"):
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink()
