"""The last command of a job script: whether the job is handed on, and the script's exit code.

``python -P -m mmlight.runs.after_srun RUN_FOLDER CODE [REASON]`` runs in the batch shell, when all
ranks have gone. A run that was asked to stop, or that crashed, is requeued (or a job is submitted
in its place) as long as its newest checkpoint moves on; a run that has finished, that a user
cancelled or whose settings are wrong is not.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mmlight.errors import UserError
from mmlight.runs.attempts import append_event, read_attempts
from mmlight.runs.job import job_name
from mmlight.runs.run import RunFolder
from mmlight.runs.slurm import client
from mmlight.runs.slurm.ending import Ending, ending
from mmlight.runs.slurm.submission import Submission
from mmlight.terminal import say

MAX_REQUEUES = "MMLIGHT_MAX_REQUEUES"
MAX_STUCK = "MMLIGHT_MAX_STUCK"
ON_PREEMPTION = "MMLIGHT_ON_PREEMPTION"
JOB_SCRIPT = "MMLIGHT_JOB_SCRIPT"
_USER_MISTAKE = 2


@dataclass(frozen=True)
class Decision:
    """What becomes of the job.

    Attributes:
        action: hand the job on, give the run up, or leave it as it ended.
        reason: why, for people.
        step: of the newest complete checkpoint; 0 without one.
        stuck: starts in a row, this one included, after which that step was the same.
        exit_code: of the job script.
    """

    action: Literal["hand on", "give up", "leave"]
    reason: str
    step: int
    stuck: int
    exit_code: int


def decide(run: RunFolder, code: int, *, max_requeues: int, max_stuck: int) -> Decision:
    """Decide from what lies in the run folder.

    Args:
        run: the run.
        code: what srun returned.
        max_requeues: how often a run may be handed on, all in all.
        max_stuck: how many starts in a row may end at the same checkpoint.
    """
    step = run.checkpoint_step()
    history = read_attempts(run.path).since_given_up
    hand_ons = history.hand_ons
    ends: list[dict[str, object]] = []
    for event in history.events:
        if event["event"] in ("start", "requeued", "resubmitted"):
            ends = []
        elif event["event"] == "end":
            ends.append(event)
    end = ends[-1] if ends else {}
    hand_on, mistake = bool(end.get("hand_on")), any(e.get("mistake") for e in ends)
    reason = str(end.get("reason") or _name(code))
    before = hand_ons[-1] if hand_ons else {"step": 0, "stuck": 0}
    stuck = 0 if step > int(before.get("step", 0)) else int(before.get("stuck", 0)) + 1

    def decision(
        action: Literal["hand on", "give up", "leave"], why: str, exit_code: int
    ) -> Decision:
        return Decision(action, why, step, stuck, exit_code)

    if run.cancelled.exists():
        return decision("leave", "cancelled", code)
    if not hand_on and (code == 0 or end.get("reason") == "finished"):
        return decision("leave", "finished", code)
    if mistake or (code == _USER_MISTAKE and not hand_on):
        said = reason if mistake else "failed: a setting is wrong; the log says which"
        return decision("give up", said, code or _USER_MISTAKE)
    if stuck >= max_stuck:
        said = f"no progress beyond step {step} in {stuck} starts in a row; the last: {reason}"
        return decision("give up", said, code or 1)
    if len(hand_ons) >= max_requeues:
        said = f"handed on {len(hand_ons)} times already, the most allowed; the last: {reason}"
        return decision("give up", said, code or 1)
    return decision("hand on", reason, 0)


def hand_on(
    run: RunFolder, decision: Decision, environ: Mapping[str, str], *, by_slurm: bool = False
) -> int:
    """Requeue the job, or submit one that begins when this one has gone; return the exit code.

    Args:
        run: the run.
        decision: to hand on.
        environ: the job's environment.
        by_slurm: SLURM requeues the job already.
    """
    about = {"reason": decision.reason, "step": decision.step, "stuck": decision.stuck}
    job = _own_job(environ)
    if environ.get(ON_PREEMPTION, "requeue") == "requeue":
        # Said first: this process is killed as soon as the controller has heard.
        append_event(run.path, "requeued", job=job, **about)
        _say(f"requeueing job {job} at step {decision.step} ({decision.reason})")
        if by_slurm:
            return 0
        try:
            client.run("scontrol", "requeue", job)
            return 0
        except UserError as error:
            _say(f"{error}; submitting another job instead")
    try:
        new = _submit_again(job, environ)
    except UserError as error:
        append_event(run.path, "gave up", reason=f"could not be handed on: {error}")
        _say(str(error))
        return 1
    append_event(run.path, "resubmitted", job=new, **about)
    submission = Submission.read(run.path)
    if submission is not None:
        submission.with_job(new).write(run.path)
    _say(f"job {new} goes on at step {decision.step} ({decision.reason})")
    return 0


def _ended_by(environ: Mapping[str, str]) -> Ending:
    """Return who ends this job; nobody, where SLURM cannot be asked."""
    try:
        told = client.show("job", _own_job(environ))
    except client.Unreachable:
        return "nobody"
    return ending(told, restart=int(environ.get("SLURM_RESTART_COUNT") or 0))


def _submit_again(job: str, environ: Mapping[str, str]) -> str:
    if JOB_SCRIPT not in environ:
        raise UserError(f"{JOB_SCRIPT} is not set; it names the script to submit again")
    options = [f"--dependency=afterany:{job}"]
    task = environ.get("SLURM_ARRAY_TASK_ID")
    if task is not None:
        options.append(f"--array={task}")
    new = client.submit(Path(environ[JOB_SCRIPT]), options=options)
    return new if task is None else f"{new}_{task}"


def _own_job(environ: Mapping[str, str]) -> str:
    job = job_name(environ)
    assert job is not None, "only a job's script calls this"
    return job


def main(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """Decide, do it, and return the job script's exit code.

    Args:
        arguments: the run's folder, the exit code of srun, and, where it never came to that, why:
            then the run is given up.
        environ: the job's environment.
    """
    run, code = RunFolder(Path(arguments[0])), int(arguments[1])
    if len(arguments) > 2:
        append_event(run.path, "gave up", reason=arguments[2])
        return code
    decision = decide(
        run,
        code,
        max_requeues=_number(environ, MAX_REQUEUES, 50),
        max_stuck=_number(environ, MAX_STUCK, 2),
    )
    if decision.action == "hand on":
        ended_by = _ended_by(environ)
        if ended_by == "cancelled":
            run.cancelled.touch()
            _say(f"job {job_name(environ)} was cancelled: it is not handed on")
            return decision.exit_code
        return hand_on(run, decision, environ, by_slurm=ended_by == "requeued")
    if decision.action == "give up":
        append_event(
            run.path, "gave up", reason=decision.reason, step=decision.step, stuck=decision.stuck
        )
        _say(f"gave up: {decision.reason}")
    return decision.exit_code


def _name(code: int) -> str:
    if code > 128:
        return f"killed by signal {code - 128}"
    return f"failed with exit code {code}"


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    value = environ.get(name, str(default))
    if not value.isdigit():
        raise UserError(f"{name} is {value!r}; it must be a number, 0 or more")
    return int(value)


def _say(text: str) -> None:
    say(f"mmlight: {text}")


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        _say(str(error))
        sys.exit(_USER_MISTAKE)
