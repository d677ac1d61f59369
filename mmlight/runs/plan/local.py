"""A sweep on this machine: its runs one after another (no torch)."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from mmlight.errors import UserError
from mmlight.runs.plan.optuna_search import OptunaSearch
from mmlight.runs.plan.pictures import plot_sweep
from mmlight.runs.plan.processes import command_of, last_line, run_one
from mmlight.runs.plan.results import (
    Result,
    SweepFolder,
    best,
    format_results,
    joined,
    read_combination,
    read_run,
    short_names,
    write_results,
)
from mmlight.runs.plan.status import jobs_now, read_results
from mmlight.runs.plan.sweep import Sweep, TrialRun, trial_runs
from mmlight.runs.run.folder import Run
from mmlight.runs.run.metrics_log import read_rows
from mmlight.runs.run.state import state_of
from mmlight.scores import format_value
from mmlight.terminal import Terminal


def arguments(run: TrialRun, sweep: Sweep, folder: SweepFolder) -> list[str]:
    """Return the arguments of ``mmlight`` that do one run from its beginning."""
    return [
        *("fit", "-c", str(sweep.experiment), f"--run.root={folder.root}"),
        *(f"--run.name={folder.name}", f"--run.id={run.id}", *run.overrides()),
    ]


def launch(
    run: TrialRun,
    sweep: Sweep,
    folder: SweepFolder,
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Do one run in a process of its own, from its newest checkpoint where it has one.

    What it prints goes into its log. `should_stop` is asked every two seconds.

    Returns:
        Whether the run was stopped.
    """
    begin = arguments(run, sweep, folder)
    command = command_of(Run(folder.run_path(run)), begin, log=folder.log(run))
    return run_one(command, should_stop=should_stop).stopped


def run_here(sweep: Sweep, folder: SweepFolder, *, failed_only: bool = False) -> int:
    """Do the runs that are not finished, one after another; return the exit code.

    With `failed_only` those alone that were begun before.

    Raises:
        UserError: the first run fails, which tells of a mistake in the settings.
    """
    console = Terminal(soft_wrap=True)
    _check_idle(folder)
    search = OptunaSearch(sweep, journal=folder.journal) if sweep.searcher == "optuna" else None
    proposals: Iterable[tuple[int, Mapping[str, Any]]]
    if failed_only:
        results = {r.number: r for r in read_results(sweep, folder, search=search)}
        proposals = [(r.number, r.values) for r in results.values() if r.is_broken]
        if not proposals:
            console.print("no run of the sweep has failed")
    else:
        results = {r.number: r for r in _remembered(sweep, folder, search)}
        proposals = _proposals(sweep, search, done=len(results))
    total = sweep.trials or len(sweep.combinations())
    for number, values in proposals:
        again = "again" if failed_only else f"{len(results) + 1} of {total}"
        console.print(f"trial {number} ({again}): {described(sweep, values)}")
        result = _try(sweep, folder, number, values, search=None if failed_only else search)
        results[number] = result
        if search:
            search.tell(result)
        ordered = sorted(results.values(), key=lambda r: r.number)
        write_results(folder, ordered, sweep)
        console.print(f"  {_outcome(result, sweep, best(ordered, sweep))}")
        if result.state == "failed" and len(results) == 1:
            raise UserError(
                f"the first run of the sweep failed: {result.error}; all of it is in "
                f"{folder.log(trial_runs(sweep, number, values)[0])}"
            )
    return conclude(sorted(results.values(), key=lambda r: r.number), sweep, folder)


def conclude(results: Sequence[Result], sweep: Sweep, folder: SweepFolder) -> int:
    """Write and print the table and the best, draw the plot; return 1 without a finished run."""
    write_results(folder, results, sweep)
    plot_sweep(results, sweep, folder.path / "sweep.png")
    console = Terminal(soft_wrap=True)
    console.print(format_results(results, sweep))
    found = best(results, sweep)
    if found is None:
        console.print(f"no run finished; see {folder.path}")
        return 1
    console.print(f"best: mmlight fit -c {folder.best_yaml}   ({described(sweep, found.values)})")
    console.print(f"sweep: {folder.path}")
    return 0


def _remembered(sweep: Sweep, folder: SweepFolder, search: OptunaSearch | None) -> Iterator[Result]:
    """Yield the trials that are over, as Optuna knows; it does not know what ran again since."""
    for trial in search.trials() if search else ():
        if trial.is_over:
            read = read_combination(folder, trial.number, trial.values, sweep)
            yield read if read.state == "finished" else trial


def _proposals(
    sweep: Sweep, search: OptunaSearch | None, *, done: int
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if search is None:
        yield from enumerate(sweep.combinations())
        return
    assert sweep.trials is not None
    for _ in range(done, sweep.trials):
        yield search.ask()


def _try(
    sweep: Sweep,
    folder: SweepFolder,
    number: int,
    values: Mapping[str, Any],
    *,
    search: OptunaSearch | None,
) -> Result:
    """Run what has not finished of a combination; return how it did."""
    found = []
    for run in trial_runs(sweep, number, values):
        result = read_run(folder, run, sweep)
        if result.state != "finished":
            stopped = launch(
                run, sweep, folder, should_stop=_pruner(run, sweep, folder, search=search)
            )
            result = read_run(folder, run, sweep)
            if stopped:
                result = Result(number, values, "pruned", wall_s=result.wall_s)
            elif result.state != "finished":
                said = result.error or last_line(folder.log(run))
                result = Result(number, values, "failed", wall_s=result.wall_s, error=said)
        found.append(result)
        if result.state != "finished":
            break
    return joined(found)


def _pruner(
    run: TrialRun, sweep: Sweep, folder: SweepFolder, *, search: OptunaSearch | None
) -> Callable[[], bool]:
    if search is None or not sweep.prune:
        return lambda: False
    log, seen = Run(folder.run_path(run)).metrics_jsonl, set[int]()

    def should_stop() -> bool:
        rows = [r for r in read_rows(log) if sweep.metric in r and r["step"] not in seen]
        seen.update(row["step"] for row in rows)
        if not rows:
            return False
        return search.should_stop({row["step"]: float(row[sweep.metric]) for row in rows})

    return should_stop


def described(sweep: Sweep, values: Mapping[str, Any]) -> str:
    """Return the values of a combination that differ from run to run."""
    names = short_names(sweep.varied)
    return "  ".join(f"{n} {values[k]}" for n, k in zip(names, sweep.varied, strict=True))


def _check_idle(folder: SweepFolder) -> None:
    queue = jobs_now(folder)
    states = [state_of(Run(p.parent), queue) for p in folder.path.glob("*/submission.json")]
    if active := sum(state.is_active for state in states):
        raise UserError(
            f"{active} runs of {folder.path} wait or run on SLURM: --status shows them, "
            "`mmlight cancel` ends them"
        )


def _outcome(result: Result, sweep: Sweep, found: Result | None) -> str:
    minutes = f"({result.wall_s / 60:.1f} min)"
    if result.score is None:
        return f"{result.state} {minutes}" + (f": {result.error}" if result.error else "")
    said = f"{sweep.metric} {format_value(sweep.metric, result.score)} {minutes}"
    if found is None or found.number == result.number:
        return f"{said}, the best so far"
    return f"{said}; best is trial {found.number}: {format_value(sweep.metric, found.score or 0)}"
