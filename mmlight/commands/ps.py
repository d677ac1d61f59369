"""``mmlight ps``: which runs wait, run, or have ended."""

import argparse
import getpass
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime

from mmlight.runs.run.heartbeats import step_age
from mmlight.runs.run.scan import ScannedRun, run_folders
from mmlight.runs.run.state import STYLES, State, jobs_of, planned_steps, seconds_left, state_of
from mmlight.runs.show.columns import Column, fitting_width, show
from mmlight.runs.slurm.client import QueuedJob
from mmlight.runs.slurm.durations import readable
from mmlight.scores import format_value, main_metric, value_of
from mmlight.terminal import Terminal, note, say

_RECENT_S = 24 * 3600.0
# Nobody reads thousands of rows, and to make them takes longer than all else.
_MOST_ENDED = 200
_COLUMNS = (
    *(Column("run"), Column("state", styles=STYLES), Column("job"), Column("step", right=True)),
    *(Column("ago", right=True), Column("left", right=True), Column("restarts", right=True)),
    *(Column("last", wraps=True), Column("why", wraps=True)),
)
_ORDER = ("running", "ending", "waiting", "failed", "stopped", "unknown", "cancelled", "finished")


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight ps``."""
    parser = argparse.ArgumentParser(
        prog="mmlight ps",
        description="Show the runs that wait or run, and those that ended within a day, "
        f"the last {_MOST_ENDED} of them: from squeue and the run folders; sacct is not needed.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="only runs of these experiments")
    parser.add_argument("--all", action="store_true", help="all runs, however old")
    parser.add_argument("--metric", help="show this one, such as val/loss")
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument("--me", action="store_true", help="only runs of your own")
    whose.add_argument("--user", help="only runs of this user")
    parser.add_argument("--partition", help="only runs whose job is, or was, in this partition")
    parser.add_argument("--wandb", action="store_true", help="show each run's address at W&B")
    parser.add_argument(
        "--watch",
        nargs="?",
        type=_seconds,
        const=5.0,
        metavar="SECONDS",
        help="show it again every so often (default: 5), until Ctrl-C",
    )
    parser.add_argument("--root", default="runs", help="the folder of all runs (default: runs)")
    options = parser.parse_args(argv)
    if options.watch is None:
        _show(options)
        return 0
    try:
        while True:
            if sys.stdout.isatty():
                Terminal().clear()
            say(f"{datetime.now():%Y-%m-%d %H:%M:%S}, every {options.watch:g} s; Ctrl-C ends it")
            _show(options)
            time.sleep(options.watch)
    except KeyboardInterrupt:
        return 0


def _seconds(text: str) -> float:
    value = float(text)
    # squeue asks a controller that all of a cluster's users share.
    if not 1 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 86400 seconds")
    return value


def _show(options: argparse.Namespace) -> None:
    runs = _runs(options.root, options.names)
    if user := getpass.getuser() if options.me else options.user:
        runs = [run for run in runs if run.user == user]
    queue = jobs_of([r.submission for r in runs if r.submission], missing=_tell)
    since = 0.0 if options.all else time.time() - _RECENT_S
    # Of a run that SLURM does not know and nothing was heard of for a day, the state is not asked.
    runs = [run for run in runs if run.submission or _last_seen(run) > since]
    stated = [(run, state_of(run, queue)) for run in runs]
    stated = [(run, s) for run, s in stated if s.is_active or _last_seen(run) > since]
    if options.partition:
        stated = [(r, s) for r, s in stated if options.partition in _partitions(r, queue)]
    if not stated:
        where = f"{options.root} of {', '.join(options.names)}" if options.names else options.root
        of = f" of {user}" if user else ""
        of += f" in partition {options.partition}" if options.partition else ""
        say(f"no run{of} in {where} is active or ended within a day; --all shows older ones")
        return
    ended = [run for run, state in stated if not state.is_active]
    hidden = set() if options.all else set(sorted(ended, key=_last_seen)[:-_MOST_ENDED])
    stated = [(run, state) for run, state in stated if run not in hidden]
    stated.sort(key=lambda pair: (_ORDER.index(pair[1].word), -pair[0].touched_at))
    # On a terminal the last two columns take several lines; in a file or a pipe a run is a line.
    console = Terminal()
    rows = [_row(run, state, metric=options.metric) for run, state in stated]
    columns: tuple[Column, ...] = _COLUMNS
    if options.wandb:
        # An address in two parts can't be copied.
        columns = (*_COLUMNS, Column("W&B"))
        rows = [(*row, run.wandb_url or "") for row, (run, _) in zip(rows, stated, strict=True)]
    show(columns, rows, console, width=fitting_width(console))
    if hidden:
        note(f"{len(hidden):,} more runs ended within a day: --all shows them")


def _partitions(run: ScannedRun, queue: Mapping[str, QueuedJob] | None) -> Sequence[str]:
    """Return the partitions that a run's newest job may run in, or ran in."""
    job = (queue or {}).get(run.jobs[-1]) if run.jobs else None
    if job is not None:
        return job.partition.split(",")
    told = (run.provenance or {}).get("job")
    return [str(told.get("partition"))] if isinstance(told, dict) else []


def _last_seen(run: ScannedRun) -> float:
    return max(run.touched_at, run.ended_at)


def _runs(root: str, names: Sequence[str]) -> list[ScannedRun]:
    only: Sequence[str | None] = names or [None]
    paths = (path for name in only for path in run_folders(root, name=name))
    return [ScannedRun(path) for path in paths]


def _tell(missing: str) -> None:
    note(f"{missing}: states are what the run folders tell")


def _row(run: ScannedRun, state: State, *, metric: str | None) -> tuple[str, ...]:
    return (
        run.label,
        state.word,
        run.jobs[-1] if run.jobs else "",
        _steps(run),
        _ago(run, state),
        _left(run, state),
        str(run.attempts.restarts or ""),
        _last(run, metric=metric),
        state.why,
    )


def _steps(run: ScannedRun) -> str:
    total = planned_steps(run)
    return f"{run.step}/{total}" if total else str(run.step)


def _ago(run: ScannedRun, state: State) -> str:
    """Return how long ago a run got on."""
    if state.word != "running":
        return ""
    age = step_age(run.beats(), time.time())
    if age is None:  # of an earlier version, or before the first step
        age = max(0.0, time.time() - run.logged_at) if run.logged_at else None
    return "" if age is None else readable(age)


def _left(run: ScannedRun, state: State) -> str:
    # Of a run that stands still, nobody knows.
    seconds = seconds_left(run) if state.word == "running" and not state.why else None
    return "" if seconds is None else readable(seconds)


def _last(run: ScannedRun, *, metric: str | None) -> str:
    """Return the metric asked for, or the training loss and what the run is known by."""
    values = run.final if run.is_summed_up else run.final | run.last_metrics()
    main = main_metric(values, monitor=run.monitor)
    wanted = [metric] if metric else ["train/loss", *([main] if main else [])]
    found = {name: value_of(name, values) for name in wanted}
    said = [
        f"{n.removeprefix('train/')} {format_value(n, v)}"
        for n, v in found.items()
        if v is not None
    ]
    return ", ".join(said)
