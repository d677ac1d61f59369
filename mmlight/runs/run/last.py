"""Which run ``--ckpt_path last`` means: the newest start of an experiment's own."""

import os
import re
from collections.abc import Iterator
from datetime import datetime
from itertools import takewhile
from pathlib import Path

from mmlight.errors import UserError
from mmlight.files import read_json
from mmlight.runs.run.attempts import ATTEMPTS, read_attempts
from mmlight.runs.run.folder import RunFolder, agree_on, agreed_id, checked, runs_of_job, step_of
from mmlight.runs.slurm.job import job_name

# Of sweeps, of `mmlight reproduce`, and what trains to measure.
_OF_OTHERS = re.compile(r"trial-\d{3,}(-seed-?\d+)?|.+-again-[0-9a-f]{4}|(bench|lr-find)-.+")


def last_run(root: str | Path, *, name: str) -> RunFolder:
    """Return the run to go on with: this job's own, else the newest start of the experiment.

    Where the environment gives this run an id (see `RunFolder.create`), only that run is looked at,
    so that the tasks of a job array don't continue one another. Runs of a cross-validation, of a
    sweep and of `mmlight reproduce` are parts of these, and an evaluation is no start.

    Args:
        root: the folder of all runs.
        name: the experiment's name.

    Raises:
        UserError: there is no such run, or it has no complete checkpoint: an older one is never
            taken in its place.
    """
    folder = Path(root) / checked("name", name)
    agreed = agreed_id(os.environ)
    if agreed is None:
        run = _newest(folder)
    else:
        paths = [folder / agreed]
        if agreed == job_name(os.environ):
            paths = list(takewhile(Path.exists, runs_of_job(folder, agreed)))
        run = max(map(RunFolder, paths), key=_saved_at, default=None)
        if run is not None and run.newest_checkpoint() is None:
            run = None
    if run is None:
        where = folder / agreed if agreed else folder
        raise UserError(
            f"no run to continue: {where} holds no complete checkpoint; leave out '--ckpt_path "
            "last' to start one"
        )
    agree_on(run.id)
    return run


def own_starts(folder: Path) -> list[RunFolder]:
    """Return the trainings of an experiment, without those that are parts of something, in order.

    Args:
        folder: of the experiment's runs.
    """
    paths = [path for path in sorted(folder.glob("*/")) if not path.name.startswith(".")]
    of_folds = set(_fold_runs(paths))
    found = [
        path
        for path in paths
        if path not in of_folds and not _OF_OTHERS.fullmatch(path.name) and _is_training(path)
    ]
    return [RunFolder(path) for path in sorted(found, key=lambda path: (_began(path), path.name))]


def _newest(folder: Path) -> RunFolder | None:
    starts = own_starts(folder)
    if not starts or starts[-1].newest_checkpoint() is not None:
        return starts[-1] if starts else None
    newest, began = starts[-1], datetime.fromtimestamp(_began(starts[-1].path))
    older = next((run for run in reversed(starts) if run.newest_checkpoint() is not None), None)
    hint = "leave out '--ckpt_path last' to start anew"
    if older is not None:
        hint += (
            f", or go on with an older one: mmlight resume {older.name}/{older.id} (step "
            f"{older.checkpoint_step():,})"
        )
    raise UserError(
        f"no run to continue: the newest start of {newest.name}, {newest.id} of "
        f"{began:%Y-%m-%d %H:%M}, has no complete checkpoint; {hint}"
    )


def _fold_runs(paths: list[Path]) -> Iterator[Path]:
    """Yield the runs of folds, which bear the name of their cross-validation's folder."""
    for above in paths:
        if (above / "plan.json").exists():
            for config in above.glob("*.yaml"):
                yield above.with_name(f"{above.name}-{config.stem}")


def _is_training(path: Path) -> bool:
    if (path / ATTEMPTS).exists() or any((path / "checkpoints").glob("*.ckpt")):
        return True
    # Of an earlier version, or ended while it was built.
    return (read_json(path / "provenance.json") or {}).get("verb") == "fit"


def _began(path: Path) -> float:
    """Return when a run was last started, seconds since 1970."""
    before: str | None = None
    begun = 0.0
    for event in read_attempts(path).events:
        # One that Ctrl-C ended while it was built has an end alone.
        if event["event"] == "start" or (event["event"] == "end" and before != "start"):
            begun = float(event.get("time", 0))
        before = event["event"]
    files = (path / "config.yaml", path / "provenance.json", path)
    return begun or next(file.stat().st_mtime for file in files if file.exists())


def _saved_at(run: RunFolder) -> tuple[int, str]:
    newest = run.newest_checkpoint()
    return (newest.stat().st_mtime_ns if newest is not None else -1, run.id)


def told_of(run: RunFolder, checkpoint: Path) -> str:
    """Return what is said of a run and the checkpoint that is taken of it.

    Args:
        run: the run.
        checkpoint: the checkpoint.
    """
    finished = (read_json(run.summary) or {}).get("status") == "finished"
    ended = ", which has finished" if finished else ""
    return f"{run.name}/{run.id}{ended}: {checkpoint.name}, step {step_of(checkpoint):,}"
