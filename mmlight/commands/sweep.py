"""``mmlight sweep``: runs one experiment with many settings, one after another."""

import argparse
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from mmlight.errors import UserError
from mmlight.runs.files import write_text
from mmlight.runs.metrics_log import read_rows
from mmlight.runs.plots.sweep import plot_sweep
from mmlight.runs.run import RUN_ID, RunFolder
from mmlight.runs.sweep import Sweep, TrialRun, load, trial_runs
from mmlight.runs.sweep_optuna import OptunaSearch
from mmlight.runs.sweep_results import (
    Result,
    SweepFolder,
    best,
    format_results,
    joined,
    read_run,
    short_names,
    write_results,
)
from mmlight.runs.sweep_wandb import wandb_config
from mmlight.runs.table import format_value

_POLL_S = 2.0
_GRACE_S = 60.0


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight sweep``.

    Raises:
        UserError: a mistake in the sweep's file, or a first run that fails.
    """
    parser = argparse.ArgumentParser(
        prog="mmlight sweep",
        description="Run one experiment with many settings, one after another, each as a normal "
        "run below runs/NAME. Started again, it goes on where it was: finished runs are not run "
        "again, and one that was broken off continues from its checkpoint.",
    )
    parser.add_argument("-c", "--config", type=Path, required=True, help="the sweep's YAML file")
    parser.add_argument("--name", help="the sweep's name (default: that of the file)")
    parser.add_argument("--root", default="runs", help="the folder of all runs (default: runs)")
    only = parser.add_mutually_exclusive_group()
    only.add_argument(
        "--list", action="store_true", help="print the command of each run, and run none"
    )
    only.add_argument(
        "--wandb", action="store_true", help="write the sweep for W&B's agents, and run none"
    )
    options = parser.parse_args(argv)
    sweep = load(options.config)
    folder = SweepFolder(Path(options.root), options.name or options.config.stem)
    if options.list:
        if sweep.searcher == "optuna":
            raise UserError("--list: optuna decides trial by trial; use searcher grid or random")
        for number, values in enumerate(sweep.combinations()):
            for run in trial_runs(sweep, number, values):
                print(shlex.join(["mmlight", *arguments(run, sweep, folder)]))
        return 0
    if options.wandb:
        return _write_wandb(sweep, folder)
    folder.open(sweep)
    return _run(sweep, folder)


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

    Args:
        run: what to run.
        sweep: the sweep's settings.
        folder: where its runs are; what the run prints goes into its log there.
        should_stop: asked every two seconds.

    Returns:
        Whether the run was stopped.
    """
    command = [sys.executable, "-m", "mmlight", *arguments(run, sweep, folder)]
    # An id of this process's own surroundings (a SLURM job) is not the run's.
    environment = {**os.environ, RUN_ID: run.id}
    if RunFolder(folder.run_path(run)).newest_checkpoint() is not None:
        command += ["--ckpt_path", "last"]
    stopped = False
    with folder.log(run).open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            while process.poll() is None:
                try:
                    process.wait(_POLL_S)
                except subprocess.TimeoutExpired:
                    if not stopped and should_stop():
                        stopped = True
                        _end(process)
        except BaseException:
            # Ctrl-C reaches the run too, which then writes its summary.
            _end(process)
            raise
    return stopped


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _run(sweep: Sweep, folder: SweepFolder) -> int:
    console = Console(soft_wrap=True, highlight=False)
    optuna = OptunaSearch(sweep, journal=folder.journal) if sweep.searcher == "optuna" else None
    results: dict[int, Result] = {}
    for known in optuna.known() if optuna else ():
        runs = trial_runs(sweep, known.number, known.values)
        read = joined([read_run(folder, run, sweep) for run in runs])
        results[known.number] = read if read.state == "finished" else known
    total = sweep.trials or len(sweep.combinations())
    for number, values in _proposals(sweep, optuna, done=len(results)):
        name = f"trial {number} ({len(results) + 1} of {total})"
        console.print(f"{name}: {_described(sweep, values)}")
        result = _try(sweep, folder, number, values, optuna=optuna)
        results[number] = result
        if optuna:
            optuna.tell(result)
        ordered = [results[n] for n in sorted(results)]
        write_results(folder, ordered, sweep)
        console.print(f"  {_told(result, sweep, best(ordered, sweep))}")
        if result.state == "failed" and len(results) == 1:
            raise UserError(
                f"the first run of the sweep failed: {result.error}; all of it is in "
                f"{folder.log(trial_runs(sweep, number, values)[0])}"
            )
    ordered = [results[n] for n in sorted(results)]
    write_results(folder, ordered, sweep)
    plot_sweep(ordered, sweep, folder.path / "sweep.png")
    console.print(format_results(ordered, sweep))
    found = best(ordered, sweep)
    if found is None:
        console.print(f"no run finished; see {folder.path}")
        return 1
    console.print(f"best: mmlight fit -c {folder.best_yaml}   ({_described(sweep, found.values)})")
    console.print(f"sweep: {folder.path}")
    return 0


def _proposals(
    sweep: Sweep, optuna: OptunaSearch | None, *, done: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    if optuna is None:
        yield from enumerate(sweep.combinations())
        return
    assert sweep.trials is not None
    for _ in range(done, sweep.trials):
        yield optuna.ask()


def _try(
    sweep: Sweep,
    folder: SweepFolder,
    number: int,
    values: dict[str, Any],
    *,
    optuna: OptunaSearch | None,
) -> Result:
    """Run what has not finished of a combination; return how it did."""
    found = []
    for run in trial_runs(sweep, number, values):
        result = read_run(folder, run, sweep)
        if result.state != "finished":
            stopped = launch(
                run, sweep, folder, should_stop=_pruner(run, sweep, folder, optuna=optuna)
            )
            result = read_run(folder, run, sweep)
            if stopped:
                result = Result(number, values, "pruned", wall_s=result.wall_s)
            elif result.state != "finished":
                said = result.error or _last_line(folder.log(run))
                result = Result(number, values, "failed", wall_s=result.wall_s, error=said)
        found.append(result)
        if result.state != "finished":
            break
    return joined(found)


def _pruner(
    run: TrialRun, sweep: Sweep, folder: SweepFolder, *, optuna: OptunaSearch | None
) -> Callable[[], bool]:
    if optuna is None or not sweep.prune:
        return lambda: False
    search, log, seen = optuna, RunFolder(folder.run_path(run)).metrics_jsonl, set[int]()

    def should_stop() -> bool:
        rows = [r for r in read_rows(log) if sweep.metric in r and r["step"] not in seen]
        seen.update(row["step"] for row in rows)
        if not rows:
            return False
        return search.should_stop({row["step"]: float(row[sweep.metric]) for row in rows})

    return should_stop


def _write_wandb(sweep: Sweep, folder: SweepFolder) -> int:
    config = wandb_config(sweep, name=folder.name, root=str(folder.root))
    path = folder.path / "wandb_sweep.yaml"
    write_text(path, yaml.safe_dump(config, sort_keys=False))
    print(
        f"{path}\nwandb sweep --project mmlight {path}   (says the sweep's ID)\n"
        "wandb agent ENTITY/mmlight/ID   (here, on as many machines as you like)"
    )
    return 0


def _described(sweep: Sweep, values: Any) -> str:
    names = short_names(sweep.varied)
    return "  ".join(f"{n} {values[k]}" for n, k in zip(names, sweep.varied, strict=True))


def _told(result: Result, sweep: Sweep, found: Result | None) -> str:
    minutes = f"({result.wall_s / 60:.1f} min)"
    if result.score is None:
        return f"{result.state} {minutes}" + (f": {result.error}" if result.error else "")
    said = f"{sweep.metric} {format_value(sweep.metric, result.score)} {minutes}"
    if found is None or found.number == result.number:
        return f"{said}, the best so far"
    return f"{said}; best is trial {found.number}: {format_value(sweep.metric, found.score or 0)}"


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("mmlight: ") if lines else "it printed nothing"
