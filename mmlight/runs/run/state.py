"""What state a run is in, of what SLURM and the run's folder say."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from mmlight.runs.run.folder import Run
from mmlight.runs.run.heartbeats import Beat, stall
from mmlight.runs.run.lock import has_died
from mmlight.runs.run.logs import last_words, log_files
from mmlight.runs.slurm import client
from mmlight.runs.slurm.client import QueuedJob, Unreachable

Word = Literal[
    "waiting", "running", "ending", "finished", "failed", "cancelled", "stopped", "unknown"
]
# A run that logged nothing for so long is taken to have ended, where SLURM cannot say.
_SILENT_S = 600.0
# Colours of the words in a table.
STYLES = {"running": "green", "waiting": "yellow", "failed": "red", "stopped": "red"}
# SLURM's jobs by id (`client.queue`); None where SLURM is not on this machine.
Queue = Mapping[str, QueuedJob] | None
_WAITING = frozenset(("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT"))
# What a job says that gave up and knows no more.
_IN_LOG = "the log says"
_NO_REASON = ("None", "")


@dataclass(frozen=True)
class State:
    """The state of a run.

    Attributes:
        word: in a word. A `stopped` run ended before its time, and nothing will go on with it;
            what SLURM would know is `unknown` where it cannot be asked.
        why: why it waits, has failed or was stopped, or which rank holds it up; empty where there
            is nothing to say.
    """

    word: Word
    why: str = ""

    @property
    def is_active(self) -> bool:
        """Whether it runs or will run without anybody doing anything."""
        return self.word in ("waiting", "running", "ending")

    def __str__(self) -> str:
        return f"{self.word} ({self.why})" if self.why else self.word


def state_of(run: Run, queue: Queue) -> State:
    """Return the state of a run, as far as SLURM's answer (`jobs_of`) and its folder tell."""
    if run.submission is None:
        return _of_folder(run)
    newest = run.jobs[-1]
    job = queue.get(newest) if queue else None
    if job is not None and job.is_active:
        return _of_job(job, run)
    if run.attempts.finished or (not run.attempts.events and run.status == "finished"):
        return State("finished")
    if run.was_cancelled:
        return State("cancelled")
    if run.attempts.problem:
        said = (
            last_words(log_files(run.path, run.jobs)) if _IN_LOG in run.attempts.problem else None
        )
        return State("failed", said or run.attempts.problem)
    if job is not None:
        return _ended(job, run)
    if queue is None:
        silent = time.time() - run.touched_at > _SILENT_S or not run.attempts.events
        return State("unknown", "SLURM cannot be asked") if silent else State("running")
    return State("stopped", f"SLURM has forgotten job {newest}")


def jobs_of(runs: Sequence[Run], *, missing: Callable[[str], None] | None = None) -> Queue:
    """Return what SLURM knows of the jobs of runs, by their ids.

    Args:
        runs: the runs; of those that it was not given, it is not asked.
        missing: is called with the reason where SLURM is not on this machine or does not answer,
            and None is returned; without it, that is an error.

    Raises:
        Unreachable: SLURM is not on this machine or does not answer.
    """
    users = {run.submission.user for run in runs if run.submission}
    try:
        return client.queue(users=users) if users else {}
    except Unreachable as error:
        if missing is None:
            raise
        missing(str(error))
        return None


def _of_job(job: QueuedJob, run: Run) -> State:
    why = "" if job.reason in _NO_REASON else job.reason
    if job.state in _WAITING:
        return State("waiting", why)
    if job.state == "COMPLETING":
        return State("ending")
    if job.state in ("SUSPENDED", "STOPPED"):
        return State("running", "suspended")
    # What a start before this one left is no sign of life.
    return State("running", _stall(run.beats(since=_moment(job.start))))


def _ended(job: QueuedJob, run: Run) -> State:
    if job.state == "COMPLETED":
        return State("stopped", "its job ended before the training was finished")
    if job.state == "CANCELLED":
        return State("cancelled", "by scancel")
    said = job.state.lower().replace("_", " ")
    if job.state == "FAILED":
        return State("failed", last_words(log_files(run.path, run.jobs)) or "see `mmlight logs`")
    return State("stopped", said)


def _of_folder(run: Run) -> State:
    """What the folder alone tells, of a run that was not launched or without SLURM."""
    if run.attempts.finished:
        return State("finished")
    if run.attempts.problem:
        return State("failed", run.attempts.problem)
    status = run.status
    # A run that goes on writes its log after the summary of the attempt before.
    if status is not None and run.touched_at <= run.ended_at + 1:
        if status == "finished":
            return State("finished")
        error = str((run.summary or {}).get("error") or "")
        return State("failed", error) if status == "failed" else State("stopped", status)
    if has_died(run.path):
        return State("stopped", "broken off")
    beats = run.beats()
    if time.time() - max([run.touched_at, *(beat.at for beat in beats)]) < _SILENT_S:
        return State("running", _stall(beats))
    return State("stopped", "broken off")


def _stall(beats: Sequence[Beat]) -> str:
    found = stall(beats, time.time())
    return found.text if found else ""


def _moment(text: str) -> float | None:
    """Return the seconds since 1970 of a time of SLURM's; None where it is none."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None
