"""The last command of a job script: whether the job is handed on, and the script's exit code.

``python -P -m mmlight.runs.slurm.after_srun RUN_FOLDER CODE [REASON]`` runs in the batch shell,
when all ranks have gone. A run that was asked to stop, or that crashed, is requeued (or a job is
submitted in its place) as long as its newest checkpoint moves on; a run that has finished, that a
user cancelled or whose settings are wrong is not. What SLURM or a node did to it is not its own
failure to move on: it goes on after a while, without a node that has failed it twice.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmlight.errors import UserError
from mmlight.runs.run.attempts import append_event
from mmlight.runs.run.folder import RunFolder
from mmlight.runs.run.submission import Submission
from mmlight.runs.run.webhook import post
from mmlight.runs.slurm import client
from mmlight.runs.slurm.decision import USER_MISTAKE, Decision, Failure, decide
from mmlight.runs.slurm.ending import Ending, ending
from mmlight.runs.slurm.failures import can_leave_out, failed_node, gone_nodes, log_file
from mmlight.runs.slurm.followers import redirect
from mmlight.runs.slurm.job import job_name
from mmlight.terminal import say

MAX_REQUEUES = "MMLIGHT_MAX_REQUEUES"
MAX_STUCK = "MMLIGHT_MAX_STUCK"
ON_PREEMPTION = "MMLIGHT_ON_PREEMPTION"
JOB_SCRIPT = "MMLIGHT_JOB_SCRIPT"


@dataclass(frozen=True)
class Bounds:
    """What a job script says of going on.

    Attributes:
        requeues: how often a run may be handed on, all in all.
        stuck: how many starts in a row may end at the same checkpoint.
        script: the job script.
    """

    requeues: int
    stuck: int
    script: Path


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
    about = {**decision.described(), "nodes": environ.get("SLURM_JOB_NODELIST")}
    job = _own_job(environ)
    if decision.exclude or decision.delay_s:
        without = f" without {', '.join(decision.exclude)}" if decision.exclude else ""
        after = f" after {decision.delay_s} s" if decision.delay_s else ""
        _say(f"job {job}: the run goes on{without}{after}")
    if environ.get(ON_PREEMPTION, "requeue") == "requeue":
        # Said first: this process is killed as soon as the controller has heard.
        append_event(run.path, "requeued", job=job, **about)
        _say(f"requeueing job {job} at step {decision.step} ({decision.reason})")
        try:
            if not by_slurm:
                client.run("scontrol", "requeue", job)
            _change_waiting(job, decision)
            return 0
        except UserError as error:
            _say(f"{error}; submitting another job instead")
    try:
        new = _submit_again(job, decision, environ)
    except UserError as error:
        append_event(run.path, "gave up", reason=f"could not be handed on: {error}")
        _say(str(error))
        return 1
    append_event(run.path, "resubmitted", job=new, **about)
    redirect(run.path, before=job, now=new)
    submission = Submission.read(run.path)
    if submission is not None:
        submission.with_job(new).write(run.path)
    _say(f"job {new} goes on at step {decision.step} ({decision.reason})")
    return 0


def _change_waiting(job: str, decision: Decision) -> None:
    """Tell SLURM what a job that waits again shall wait for. It takes none of it while one runs.

    This process is being ended meanwhile, but has SLURM's KillWait (30 s) for it.
    """
    changes = []
    if decision.exclude:
        changes.append(f"ExcNodeList={_all_excluded(job, decision)}")
    if decision.delay_s:
        changes.append(f"StartTime=now+{decision.delay_s}")
    if changes:
        try:
            client.run("scontrol", "update", f"JobId={job}", *changes)
        except UserError as error:
            _say(f"job {job}: {error}")


def _all_excluded(job: str, decision: Decision) -> str:
    """Return the nodes to leave out, those that the profile leaves out among them."""
    own = client.show("job", job).get("ExcNodeList", "(null)")
    return ",".join(dict.fromkeys([*([] if own == "(null)" else [own]), *decision.exclude]))


def _failure(environ: Mapping[str, str], ended_by: Ending) -> Failure:
    """Return what SLURM says of the end of this start."""
    gone = gone_nodes(environ)
    if gone:
        return Failure(f"node failure: {', '.join(gone)}", gone[0])
    script = environ.get(JOB_SCRIPT)
    node = failed_node(log_file(Path(script), environ)) if script else None
    if ended_by in ("requeued", "preempted"):
        return Failure("preempted" if ended_by == "preempted" else "requeued by SLURM", None)
    return Failure(None, node)


def _ended_by(environ: Mapping[str, str]) -> Ending:
    """Return who ends this job; nobody, where SLURM cannot be asked."""
    try:
        told = client.show("job", _own_job(environ))
    except client.Unreachable:
        return "nobody"
    return ending(told, restart=int(environ.get("SLURM_RESTART_COUNT") or 0))


def _submit_again(job: str, decision: Decision, environ: Mapping[str, str]) -> str:
    if JOB_SCRIPT not in environ:
        raise UserError(f"{JOB_SCRIPT} is not set; it names the script to submit again")
    options = [f"--dependency=afterany:{job}"]
    if decision.exclude:
        options.append(f"--exclude={_all_excluded(job, decision)}")
    if decision.delay_s:
        options.append(f"--begin=now+{decision.delay_s}")
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
        post(run.path, "given up", reason=arguments[2])
        return code
    limits = bounds(environ)
    decision = decide(run, code, max_requeues=limits.requeues, max_stuck=limits.stuck)
    if decision.action != "leave" and job_name(environ) is not None:
        ended_by = _ended_by(environ)
        if ended_by == "cancelled" and decision.action == "hand on":
            run.cancelled.touch()
            _say(f"job {job_name(environ)} was cancelled: it is not handed on")
            return decision.exit_code
        decision = decide(
            run,
            code,
            max_requeues=limits.requeues,
            max_stuck=limits.stuck,
            failure=_failure(environ, ended_by),
            can_exclude=lambda nodes: can_leave_out(nodes, limits.script),
        )
        if decision.action == "hand on":
            return hand_on(run, decision, environ, by_slurm=ended_by == "requeued")
    if decision.action == "give up":
        note_given_up(run, decision)
    elif decision.reason == "finished":
        post(run.path, "finished")
    return decision.exit_code


def note_given_up(run: RunFolder, decision: Decision) -> None:
    """Note, and say, that nothing goes on with a run."""
    append_event(
        run.path, "gave up", reason=decision.reason, step=decision.step, stuck=decision.stuck
    )
    _say(f"gave up: {decision.reason}")
    post(run.path, "given up", reason=decision.reason)


def bounds(environ: Mapping[str, str]) -> Bounds:
    """Return what the job script says of going on.

    Args:
        environ: the job's environment.

    Raises:
        UserError: a number that is none.
    """
    return Bounds(
        _number(environ, MAX_REQUEUES, 50),
        _number(environ, MAX_STUCK, 2),
        Path(environ.get(JOB_SCRIPT, "")),
    )


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
        sys.exit(USER_MISTAKE)
