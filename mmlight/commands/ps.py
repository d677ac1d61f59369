"""``mmlight ps``: which runs wait, run, or have ended."""

import argparse
import getpass
import sys
import time
from collections.abc import Sequence
from datetime import datetime

from mmlight.runs.run.find import all_runs
from mmlight.runs.run.folder import Run
from mmlight.runs.run.heartbeats import step_age
from mmlight.runs.run.state import STYLES, Queue, State, jobs_of, state_of
from mmlight.runs.show.grid import FORMATS, Column, Grid
from mmlight.runs.slurm.durations import readable
from mmlight.scores import format_value
from mmlight.terminal import Terminal, note, say

_RECENT_S = 24 * 3600.0
# Nobody reads thousands of rows, and to make them takes longer than all else.
_MOST_ENDED = 200
_COLUMNS = (
    *(Column("run"), Column("state", styles=STYLES), Column("job")),
    *(Column(name, align="right") for name in ("step", "ago", "left", "restarts")),
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
        "--format", choices=FORMATS, default="table", help="how they are shown (default: table)"
    )
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
    names: Sequence[str | None] = options.names or [None]
    runs = [run for name in names for run in all_runs(options.root, name=name)]
    if user := getpass.getuser() if options.me else options.user:
        runs = [run for run in runs if run.user == user]
    queue = jobs_of(
        runs, missing=lambda said: note(f"{said}: states are what the run folders tell")
    )
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
    # On a terminal the last two columns take several lines; an address in two can't be copied.
    columns = (*_COLUMNS, *([Column("W&B")] if options.wandb else []))
    rows = [
        (*_row(run, state, metric=options.metric), *([run.wandb_url] if options.wandb else []))
        for run, state in stated
    ]
    Grid(columns, tuple(rows)).print(options.format, title=f"Runs in {options.root}")
    if hidden:
        note(f"{len(hidden):,} more runs ended within a day: --all shows them")


def _partitions(run: Run, queue: Queue) -> Sequence[str]:
    """Return the partitions that a run's newest job may run in, or ran in."""
    job = (queue or {}).get(run.jobs[-1]) if run.jobs else None
    if job is not None:
        return job.partition.split(",")
    recorded = (run.provenance or {}).get("job")
    return [str(recorded.get("partition"))] if isinstance(recorded, dict) else []


def _last_seen(run: Run) -> float:
    return max(run.touched_at, run.ended_at)


def _row(run: Run, state: State, *, metric: str | None) -> tuple[str, ...]:
    return (
        run.label,
        state.word,
        run.jobs[-1] if run.jobs else "",
        f"{run.step}/{run.planned_steps}" if run.planned_steps else str(run.step),
        _ago(run, state),
        _left(run, state),
        str(run.attempts.restarts or ""),
        _last(run, metric=metric),
        state.why,
    )


def _ago(run: Run, state: State) -> str:
    """Return how long ago a run got on."""
    if state.word != "running":
        return ""
    age = step_age(run.beats(), time.time())
    if age is None:  # of an earlier version, or before the first step
        age = max(0.0, time.time() - run.logged_at) if run.logged_at else None
    return "" if age is None else readable(age)


def _left(run: Run, state: State) -> str:
    # Of a run that stands still, nobody knows.
    seconds = run.seconds_left if state.word == "running" and not state.why else None
    return "" if seconds is None else readable(seconds)


def _last(run: Run, *, metric: str | None) -> str:
    """Return the metric asked for, or the training loss and what the run is known by."""
    main = run.main_metric
    wanted = [metric] if metric else ["train/loss", *([main] if main else [])]
    found = {name: run.value(name) for name in wanted}
    said = [
        f"{n.removeprefix('train/')} {format_value(n, v)}"
        for n, v in found.items()
        if v is not None
    ]
    return ", ".join(said)
