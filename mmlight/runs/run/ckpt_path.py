"""Which run and checkpoint ``--ckpt_path last`` and ``best`` mean."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile
from pathlib import Path

from mmlight.errors import UserError
from mmlight.runs.run.attempts import append_event
from mmlight.runs.run.folder import Run, is_complete, step_of
from mmlight.runs.run.ids import agree_on, agreed_id, checked, runs_of_job
from mmlight.runs.slurm.job import job_name
from mmlight.scores import direction, format_value
from mmlight.signals import INT

# Of sweeps, of `mmlight reproduce`, and what trains to measure.
_OF_OTHERS = re.compile(r"trial-\d{3,}(-seed-?\d+)?|.+-again-[0-9a-f]{4}|(bench|lr-find)-.+")


def last_run(root: str | Path, *, name: str) -> Run:
    """Return the run to go on with: this job's own, else the newest start of the experiment.

    Where the environment gives this run an id (see `Run.create`), only that run is looked at,
    so that the tasks of a job array don't continue one another. Runs of a cross-validation, of a
    sweep and of `mmlight reproduce` are parts of these, and an evaluation is no start.

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
        run = max(map(Run, paths), key=_saved_at, default=None)
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


def own_starts(folder: Path) -> list[Run]:
    """Return the trainings of an experiment in order, without those that are parts of something."""
    paths = [path for path in sorted(folder.glob("*/")) if not path.name.startswith(".")]
    of_folds = set(_fold_runs(paths))
    own = [Run(p) for p in paths if p not in of_folds and not _OF_OTHERS.fullmatch(p.name)]
    return sorted(filter(_is_training, own), key=lambda run: (_began(run), run.id))


def _newest(folder: Path) -> Run | None:
    starts = own_starts(folder)
    if not starts or starts[-1].newest_checkpoint() is not None:
        return starts[-1] if starts else None
    newest, began = starts[-1], datetime.fromtimestamp(_began(starts[-1]))
    older = next((run for run in reversed(starts) if run.newest_checkpoint() is not None), None)
    hint = "leave out '--ckpt_path last' to start anew"
    if older is not None:
        hint += (
            f", or go on with an older one: mmlight resume {older.label} (step "
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


def _is_training(run: Run) -> bool:
    if run.attempts_jsonl.exists() or any(run.checkpoints.glob("*.ckpt")):
        return True
    # Of an earlier version, or ended while it was built.
    return (run.provenance or {}).get("verb") == "fit"


def _began(run: Run) -> float:
    """Return when a run was last started, seconds since 1970."""
    before: str | None = None
    begun = 0.0
    for event in run.attempts.events:
        # One that Ctrl-C ended while it was built has an end alone.
        if event["event"] == "start" or (event["event"] == "end" and before != "start"):
            begun = float(event.get("time", 0))
        before = event["event"]
    files = (run.config_yaml, run.provenance_json, run.path)
    return begun or next(file.stat().st_mtime for file in files if file.exists())


def _saved_at(run: Run) -> tuple[int, str]:
    newest = run.newest_checkpoint()
    return (newest.stat().st_mtime_ns if newest is not None else -1, run.id)


def note_interrupt(run: Run) -> str:
    """Note that Ctrl-C ended a run before there was anything to save; return what to say of it.

    Without a line in its log of attempts, a later ``--ckpt_path last`` would take the run before.
    """
    step = run.checkpoint_step()
    with suppress(OSError):
        append_event(run.path, "end", step=step, reason=INT, hand_on=False)
    if step:
        return f"stopped by Ctrl-C; to go on from step {step:,}: {run.resume_command}"
    return "stopped by Ctrl-C before its first step; there is nothing to save"


def describe_last(run: Run, checkpoint: Path) -> str:
    """Return what is said of a run and the checkpoint that is taken of it."""
    ended = ", which has finished" if run.status == "finished" else ""
    return f"{run.label}{ended}: {checkpoint.name}, step {step_of(checkpoint):,}"


@dataclass(frozen=True)
class BestCheckpoint:
    """A checkpoint that `checkpoint.monitor` chose.

    Attributes:
        path: the checkpoint.
        metric: what it was chosen by.
        value: that metric at its step; None where the log lacks it.
    """

    path: Path
    metric: str
    value: float | None

    def __str__(self) -> str:
        scored = "" if self.value is None else f" {format_value(self.metric, self.value)}"
        return f"{self.path.name}, the best by {self.metric}{scored}"


def best_checkpoint(run: Run, *, key: str = "--ckpt_path best") -> BestCheckpoint:
    """Return a run's best checkpoint.

    Args:
        run: the run.
        key: what asked for it, for messages.

    Raises:
        UserError: it keeps none, or has none yet.
    """
    metric = run.setting("checkpoint.monitor")
    if not isinstance(metric, str):
        raise UserError(
            f"{key}: {run.label} keeps no best checkpoint, since its checkpoint.monitor is "
            "not set (--checkpoint.monitor val/accuracy, when it is trained); 'last' takes the "
            "newest"
        )
    paths = [path for path in run.checkpoints_newest_first() if path.name.startswith("best-")]
    whole = [path for path in paths if is_complete(path)]
    if not whole:
        raise UserError(
            f"{key}: {run.label} has no complete best checkpoint: no validation gave {metric} yet"
        )
    way = direction(metric, modes=[(metric, run.setting("checkpoint.monitor_mode"))])
    sign = 1 if way == "max" else -1
    values = {row["step"]: float(row[metric]) for row in run.rows() if metric in row}

    def goodness(path: Path) -> tuple[bool, float]:
        value = values.get(step_of(path), float("nan"))
        return (value == value, sign * value)

    best = max(whole, key=goodness)  # of equal ones the newest
    return BestCheckpoint(best, metric, values.get(step_of(best)))
