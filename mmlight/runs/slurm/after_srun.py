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
from pathlib import Path

from mmlight.errors import UserError
from mmlight.runs.run.attempts import append_event
from mmlight.runs.run.folder import Run
from mmlight.runs.run.submission import Submission
from mmlight.runs.run.webhook import post
from mmlight.runs.slurm import client
from mmlight.runs.slurm.decision import USER_MISTAKE, Decision, Failure, decide
from mmlight.runs.slurm.ending import JOB_SCRIPT, can_leave_out, ended_by, failure_of
from mmlight.runs.slurm.followers import redirect
from mmlight.runs.slurm.job import job_name
from mmlight.terminal import say


def judge(
    run: Run, code: int, environ: Mapping[str, str], failure: Failure | None = None
) -> Decision:
    """Decide what becomes of a run, within the bounds that its job script sets.

    Raises:
        UserError: a bound that is no number.
    """
    script = Path(environ.get(JOB_SCRIPT, ""))
    return decide(
        run,
        code,
        max_requeues=_number(environ, "MMLIGHT_MAX_REQUEUES", 50),
        max_stuck=_number(environ, "MMLIGHT_MAX_STUCK", 2),
        failure=failure or Failure(),
        can_exclude=lambda nodes: can_leave_out(nodes, script),
    )


def hand_on(
    run: Run, decision: Decision, environ: Mapping[str, str], *, by_slurm: bool = False
) -> int:
    """Requeue the job, or submit one that begins when this one has gone; return the exit code.

    `by_slurm`: SLURM requeues the job already.
    """
    about = {**decision.described(), "nodes": environ.get("SLURM_JOB_NODELIST")}
    job = job_name(environ)
    assert job is not None, "only a job's script calls this"
    if decision.exclude or decision.delay_s:
        without = f" without {', '.join(decision.exclude)}" if decision.exclude else ""
        after = f" after {decision.delay_s} s" if decision.delay_s else ""
        _say(f"job {job}: the run goes on{without}{after}")
    if environ.get("MMLIGHT_ON_PREEMPTION", "requeue") == "requeue":
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
    if changes := _waits(job, decision, exclude="ExcNodeList", begin="StartTime"):
        try:
            client.run("scontrol", "update", f"JobId={job}", *changes)
        except UserError as error:
            _say(f"job {job}: {error}")


def _waits(job: str, decision: Decision, *, exclude: str, begin: str) -> list[str]:
    """Return the options for the nodes to leave out, the profile's among them, and the delay."""
    options = []
    if decision.exclude:
        own = client.show("job", job).get("ExcNodeList", "(null)")
        nodes = dict.fromkeys([*([] if own == "(null)" else [own]), *decision.exclude])
        options.append(f"{exclude}={','.join(nodes)}")
    if decision.delay_s:
        options.append(f"{begin}=now+{decision.delay_s}")
    return options


def _submit_again(job: str, decision: Decision, environ: Mapping[str, str]) -> str:
    if JOB_SCRIPT not in environ:
        raise UserError(f"{JOB_SCRIPT} is not set; it names the script to submit again")
    waits = _waits(job, decision, exclude="--exclude", begin="--begin")
    options = [f"--dependency=afterany:{job}", *waits]
    task = environ.get("SLURM_ARRAY_TASK_ID")
    if task is not None:
        options.append(f"--array={task}")
    new = client.submit(Path(environ[JOB_SCRIPT]), options=options)
    return new if task is None else f"{new}_{task}"


def main(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """Decide, do it, and return the job script's exit code.

    Args:
        arguments: the run's folder, the exit code of srun, and, where it never came to that, why:
            then the run is given up.
        environ: the job's environment.
    """
    run, code = Run(Path(arguments[0])), int(arguments[1])
    if len(arguments) > 2:
        append_event(run.path, "gave up", reason=arguments[2])
        post(run.path, "given up", reason=arguments[2])
        return code
    decision = judge(run, code, environ)
    if decision.action != "leave" and job_name(environ) is not None:
        by = ended_by(environ)
        if by == "cancelled" and decision.action == "hand on":
            run.cancelled.touch()
            _say(f"job {job_name(environ)} was cancelled: it is not handed on")
            return decision.exit_code
        decision = judge(run, code, environ, failure_of(environ, by))
        if decision.action == "hand on":
            return hand_on(run, decision, environ, by_slurm=by == "requeued")
    if decision.action == "give up":
        note_given_up(run, decision)
    elif decision.reason == "finished":
        post(run.path, "finished")
    return decision.exit_code


def note_given_up(run: Run, decision: Decision) -> None:
    """Note, and say, that nothing goes on with a run."""
    append_event(
        run.path, "gave up", reason=decision.reason, step=decision.step, stuck=decision.stuck
    )
    _say(f"gave up: {decision.reason}")
    post(run.path, "given up", reason=decision.reason)


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
