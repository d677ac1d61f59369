"""Jobs that wait for a run to finish, whichever of its jobs does so."""

from collections.abc import Sequence
from pathlib import Path

from mmlight.errors import UserError
from mmlight.files import read_json, write_json
from mmlight.runs.run.folder import Run
from mmlight.runs.run.state import jobs_of, state_of
from mmlight.runs.slurm import client
from mmlight.terminal import note, say

FILE = "followers.json"


def dependency(runs: Sequence[Path]) -> list[str]:
    """Return the options of sbatch that let a job wait for runs, those that have not finished.

    Raises:
        UserError: one that nobody goes on with.
    """
    jobs = []
    for path in runs:
        run = Run(path)
        state = state_of(run, jobs_of([run]))
        if state.word == "finished":
            note(f"--after {run.label}: it is finished already")
        elif run.submission is None or not state.is_active:
            raise UserError(
                f"--after {run.label}: it is {state}, and no job will finish it; `mmlight resume "
                f"{run.label}` first"
            )
        else:
            jobs.append(run.jobs[-1])
    return [f"--dependency=afterok:{':'.join(jobs)}"] if jobs else []


def follow(runs: Sequence[Path], job: str) -> None:
    """Note in the folders of runs that a job waits for them."""
    for path in runs:
        jobs = _followers(path)
        write_json(path / FILE, {"jobs": [*jobs, job]})


def redirect(run: Path, *, before: str, now: str) -> None:
    """Let what waits for a run wait for its new job; the old one ends as if its work were done."""
    for job in _followers(run):
        about = client.show("job", job)
        if about.get("JobState") != "PENDING":
            continue
        # As SLURM shows it: `afterok:7(unfulfilled),afterok:9(unfulfilled)`.
        waits = [part.partition("(")[0] for part in about.get("Dependency", "").split(",")]
        kept = [part for part in waits if part and part.partition(":")[2] != before]
        wanted = ",".join([*kept, f"afterok:{now}"])
        try:
            client.run("scontrol", "update", f"JobId={job}", f"Dependency={wanted}")
        except UserError as error:
            say(f"mmlight: job {job}, which waits for this run: {error}")


def _followers(run: Path) -> list[str]:
    return [str(job) for job in (read_json(run / FILE) or {}).get("jobs") or ()]
