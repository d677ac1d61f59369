"""``mmlight ps``: which runs wait, run, or have ended."""

import argparse
import sys
import time
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import JustifyMethod, RenderableType
from rich.table import Table

from mmlight.runs.scan import ScannedRun, run_folders
from mmlight.runs.slurm.eta import planned_steps, readable, seconds_left
from mmlight.runs.slurm.state import State, jobs_of, state_of
from mmlight.runs.table import format_value
from mmlight.terminal import Terminal, note, say, styled

_RECENT_S = 24 * 3600.0
# The table's columns, and whether they hold numbers.
_COLUMNS = {
    **{"run": False, "state": False, "job": False, "step": True, "left": True, "restarts": True},
    **{"last": False, "why": False},
}
_WRAPPED, _NARROWEST = ("last", "why"), 10
_NARROWEST_TABLE, _WIDTH_OF_A_FILE = 80, 1000
_ORDER = ("running", "ending", "waiting", "failed", "stopped", "unknown", "cancelled", "finished")
_STYLES = {"running": "green", "waiting": "yellow", "failed": "red", "stopped": "red"}


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight ps``."""
    parser = argparse.ArgumentParser(
        prog="mmlight ps",
        description="Show the runs that wait or run, and those that ended within a day: from "
        "squeue and the run folders; sacct is not needed.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="only runs of these experiments")
    parser.add_argument("--all", action="store_true", help="all runs, however old")
    parser.add_argument("--metric", help="show this one, such as val/loss")
    parser.add_argument("--root", default="runs", help="the folder of all runs (default: runs)")
    options = parser.parse_args(argv)
    runs = _runs(options.root, options.names)
    queue = jobs_of([r.submission for r in runs if r.submission], missing=_tell)
    stated = [(run, state_of(run, queue)) for run in runs]
    if not options.all:
        since = time.time() - _RECENT_S
        stated = [(r, s) for r, s in stated if s.is_active or max(r.touched_at, r.ended_at) > since]
    if not stated:
        where = f"{options.root} of {', '.join(options.names)}" if options.names else options.root
        say(f"no run in {where} is active or ended within a day; --all shows older ones")
        return 0
    stated.sort(key=lambda pair: (_ORDER.index(pair[1].word), -pair[0].touched_at))
    # On a terminal the last two columns take several lines; in a file or a pipe a run is a line.
    on_terminal = sys.stdout.isatty()
    width = max(Terminal().width, _NARROWEST_TABLE) if on_terminal else _WIDTH_OF_A_FILE
    console = Terminal(soft_wrap=not on_terminal, width=width)
    console.print(_table(stated, metric=options.metric))
    return 0


def _runs(root: str, names: Sequence[str]) -> list[ScannedRun]:
    only: Sequence[str | None] = names or [None]
    paths = (path for name in only for path in run_folders(root, name=name))
    return [ScannedRun(path) for path in paths]


def _tell(missing: str) -> None:
    note(f"{missing}: states are what the run folders tell")


def _table(stated: Sequence[tuple[ScannedRun, State]], *, metric: str | None) -> Table:
    rows = [_row(run, state, metric=metric) for run, state in stated]
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for number, (heading, right) in enumerate(_COLUMNS.items()):
        # A column without anything in it takes the room of those that have.
        if any(row[number] for row in rows):
            align: JustifyMethod = "right" if right else "left"
            wraps = heading in _WRAPPED
            table.add_column(
                heading,
                justify=align,
                no_wrap=not wraps,
                overflow="fold",
                min_width=_NARROWEST if wraps else None,
            )
        else:
            for row in rows:
                row[number] = None
    for row in rows:
        table.add_row(*(cell for cell in row if cell is not None))
    return table


def _row(run: ScannedRun, state: State, *, metric: str | None) -> list[RenderableType | None]:
    style = _STYLES.get(state.word, "")
    return [
        run.label,
        styled(state.word, style),
        run.jobs[-1] if run.jobs else "",
        _steps(run),
        _left(run, state),
        str(run.attempts.restarts or ""),
        _last(run, metric=metric),
        state.why,
    ]


def _steps(run: ScannedRun) -> str:
    total = planned_steps(run)
    return f"{run.step}/{total}" if total else str(run.step)


def _left(run: ScannedRun, state: State) -> str:
    seconds = seconds_left(run) if state.word == "running" else None
    return "" if seconds is None else readable(seconds)


def _last(run: ScannedRun, *, metric: str | None) -> str:
    """Return the metric asked for, or the training loss and what the best is chosen by."""
    monitor = run.submission.monitor if run.submission else None
    wanted = [metric] if metric else ["train/loss", *([monitor] if monitor else ["val/loss"])]
    final = (run.summary or {}).get("final") or {}
    found = {name: final.get(name, None) for name in wanted}
    if run.touched_at > run.ended_at or not final:
        found |= {name: v for name in wanted if (v := run.last(name)) is not None}
    said = [
        f"{n.removeprefix('train/')} {format_value(n, float(v))}"
        for n, v in found.items()
        if v is not None
    ]
    return ", ".join(said)
