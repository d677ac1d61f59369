"""How far a sweep is: the table, the best and the plot, at any time and from any process."""

import fcntl
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mmlight.errors import UserError
from mmlight.runs.plan.optuna_search import OptunaSearch
from mmlight.runs.plan.results import Result, SweepFolder, best, read_combination, write_results
from mmlight.runs.plan.sweep import Sweep, load
from mmlight.runs.run.folder import Run
from mmlight.runs.run.state import Queue, jobs_of
from mmlight.scores import format_value
from mmlight.terminal import say


def read_results(
    sweep: Sweep,
    folder: SweepFolder,
    *,
    queue: Queue = None,
    search: OptunaSearch | None = None,
) -> list[Result]:
    """Return how all combinations do now; Optuna, where it searches, learns what has finished."""
    if search is None:
        combinations = enumerate(sweep.combinations())
        return [read_combination(folder, n, v, sweep, queue) for n, v in combinations]
    results = []
    for trial in search.trials():
        result = read_combination(folder, trial.number, trial.values, sweep, queue)
        if result.state == "finished":
            search.tell(result)
        elif trial.state == "pruned":
            result = trial
        results.append(result)
    return results


def jobs_now(folder: SweepFolder) -> Queue:
    """Return what SLURM knows of a sweep's jobs; None where it cannot be asked."""
    try:
        return jobs_of([Run(p.parent) for p in folder.path.glob("*/submission.json")])
    except UserError:
        return None


def record_results(sweep: Sweep, folder: SweepFolder, *, queue: Queue = None) -> list[Result]:
    """Write the table, the best, and when nothing is left to run the plot; return the results.

    Several processes may do so at once: one after another, each with what is there then.
    """
    search = OptunaSearch(sweep, journal=folder.journal) if sweep.searcher == "optuna" else None
    with _locked(folder.path / ".results.lock"):
        results = read_results(sweep, folder, queue=queue, search=search)
        write_results(folder, results, sweep)
        if not any(r.state in ("new", "waiting", "running", "unknown") for r in results):
            from mmlight.runs.plan.pictures import plot_sweep  # loads matplotlib

            plot_sweep(results, sweep, folder.path / "sweep.png")
    return results


def progress(results: Sequence[Result], sweep: Sweep) -> str:
    """Return how far the sweep is, in a line."""
    counts = Counter(result.state for result in results)
    states = ", ".join(f"{count} {state}" for state, count in counts.items())
    found = best(results, sweep)
    if found is None:
        return f"{len(results)} trials: {states}"
    score = format_value(sweep.metric, found.score or 0.0)
    return f"{len(results)} trials: {states}; best is trial {found.number}: {sweep.metric} {score}"


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
