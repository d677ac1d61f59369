"""How far a sweep is: the table, the best and the plot, at any time and from any process."""

import fcntl
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from mmlight.errors import UserError
from mmlight.runs.plan.optuna_search import OptunaSearch
from mmlight.runs.plan.results import (
    Result,
    SweepFolder,
    best,
    joined,
    read_run,
    write_results,
)
from mmlight.runs.plan.results import State as Word
from mmlight.runs.plan.sweep import Sweep, TrialRun, load, trial_runs
from mmlight.runs.run.folder import Run
from mmlight.runs.run.state import State, jobs_of, state_of
from mmlight.runs.slurm.client import QueuedJob
from mmlight.scores import format_value
from mmlight.terminal import say

_WORDS: dict[str, Word] = {
    "waiting": "waiting",
    "running": "running",
    "ending": "running",
    "failed": "failed",
    "cancelled": "cancelled",
    "stopped": "stopped",
}


def read_results(
    sweep: Sweep,
    folder: SweepFolder,
    *,
    queue: Mapping[str, QueuedJob] | None = None,
    search: OptunaSearch | None = None,
) -> list[Result]:
    """Return how all combinations do now.

    Args:
        sweep: the settings.
        folder: of the sweep.
        queue: SLURM's jobs by id; None for what the folders alone tell.
        search: Optuna's, where it is the searcher; it learns what has finished.
    """
    if search is None:
        combinations = list(enumerate(sweep.combinations()))
        return [_read(sweep, folder, n, values, queue) for n, values in combinations]
    results = []
    for trial in search.trials():
        result = _read(sweep, folder, trial.number, trial.values, queue)
        if result.state == "finished":
            search.tell(result)
        elif trial.state == "pruned":
            result = trial
        results.append(result)
    return results


def jobs_now(folder: SweepFolder) -> Mapping[str, QueuedJob] | None:
    """Return what SLURM knows of a sweep's jobs; None where it cannot be asked.

    Args:
        folder: of the sweep.
    """
    try:
        return jobs_of([Run(p.parent) for p in folder.path.glob("*/submission.json")])
    except UserError:
        return None


def run_state(
    run: TrialRun, folder: SweepFolder, queue: Mapping[str, QueuedJob] | None
) -> State | None:
    """Return the state of one run; None where it was never begun nor submitted."""
    path = folder.run_path(run)
    return state_of(Run(path), queue) if path.exists() else None


def record_results(
    sweep: Sweep, folder: SweepFolder, *, queue: Mapping[str, QueuedJob] | None = None
) -> list[Result]:
    """Write the table, the best, and when nothing is left to run the plot; return the results.

    Several processes may do so at once: one after another, each with what is there then.
    """
    search = OptunaSearch(sweep, journal=folder.journal) if sweep.searcher == "optuna" else None
    with _locked(folder.path / ".results.lock"):
        results = read_results(sweep, folder, queue=queue, search=search)
        write_results(folder, results, sweep)
        if not any(r.state in ("new", "waiting", "running") for r in results):
            from mmlight.runs.plan.pictures import plot_sweep  # loads matplotlib

            plot_sweep(results, sweep, folder.path / "sweep.png")
    return results


def progress(results: Sequence[Result], sweep: Sweep) -> str:
    """Return how far the sweep is, in a line."""
    counts: dict[str, int] = {}
    for result in results:
        counts[result.state] = counts.get(result.state, 0) + 1
    states = ", ".join(f"{count} {state}" for state, count in counts.items())
    found = best(results, sweep)
    if found is None:
        return f"{len(results)} trials: {states}"
    score = format_value(sweep.metric, found.score or 0.0)
    return f"{len(results)} trials: {states}; best is trial {found.number}: {sweep.metric} {score}"


def _read(
    sweep: Sweep,
    folder: SweepFolder,
    number: int,
    values: Mapping[str, object],
    queue: Mapping[str, QueuedJob] | None,
) -> Result:
    found = []
    for run in trial_runs(sweep, number, values):
        result = read_run(folder, run, sweep)
        state = run_state(run, folder, queue) if result.state != "finished" else None
        if state is not None and state.word in _WORDS:
            why = (
                state.why.removeprefix("failed: ") if state.word in ("failed", "stopped") else None
            )
            result = replace(result, state=_WORDS[state.word], error=result.error or why)
        found.append(result)
    return joined(found)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main(arguments: Sequence[str]) -> int:
    """Bring a sweep's table up to date; the job script of its runs does so at its end."""
    path = Path(arguments[0])
    sweep = load(path / "slurm" / "sweep.yaml")
    results = record_results(sweep, SweepFolder(path.parent, path.name))
    say(f"mmlight: sweep {path.name}: {progress(results, sweep)}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        say(f"mmlight: {error}")
        sys.exit(2)
