"""The checkpoint from which a run goes on, and what is in its way."""

import logging
import shutil
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from mmlight.errors import UserError
from mmlight.runs.run.folder import Run, step_of
from mmlight.saved.checkpoint import check_whole
from mmlight.terminal import one_line

_log = logging.getLogger(__name__)


def find_whole(run: Run) -> Path | None:
    """Return the newest checkpoint of this very run that is whole; None where there is none.

    Damaged ones are passed over with a warning and, on rank 0, renamed to ``.NAME.damaged``, since
    their step will be saved again.

    Args:
        run: the run; no job but this one writes to it.
    """
    found: Path | None = None
    damaged: list[str] = []
    for path in run.checkpoints_newest_first():
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
    return found


def put_later_aside(folder: Path, *, step: int) -> None:
    """Rename the checkpoints of later steps than `step`, from which training begins.

    They would be taken for the newest ones although training did not come by them.

    Args:
        folder: of a run's checkpoints.
        step: optimiser steps done.
    """
    later = [path for path in sorted(folder.glob("*.ckpt")) if step_of(path) > step]
    for path in later:
        _put_aside(path, why="superseded")
    if later:
        names = ", ".join(f".{path.name}.superseded" for path in later)
        _warn(f"training begins at step {step:,}; later checkpoints in {folder} are now {names}")


def clean(run: Run) -> None:
    """Remove what killed processes left half written.

    Args:
        run: the run; no process but this one writes to it.
    """
    for part in (*run.path.glob(".*.part"), *run.path.glob("*/.*.part")):
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink()


@rank_zero_only
def _warn(text: str) -> None:
    _log.warning("mmlight: %s", one_line(" ".join(text.split())))


@rank_zero_only
def _put_aside(path: Path, *, why: str = "damaged") -> None:
    aside = path.with_name(f".{path.name}.{why}")
    if aside.is_dir():
        shutil.rmtree(aside)
    path.replace(aside)
