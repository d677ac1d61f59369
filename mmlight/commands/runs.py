"""``mmlight runs``: which runs there are."""

import argparse
import csv
import sys
import time
from collections.abc import Sequence

from mmlight.errors import UserError, nearest
from mmlight.runs.run.listing import Condition, ListedRun, check_key, list_runs, metric_names
from mmlight.runs.run.state import STYLES
from mmlight.runs.show.columns import Column, fitting_width, show
from mmlight.scores import direction, format_value
from mmlight.terminal import Terminal, note, one_line, say

_SHOWN = 40
_UNITS = (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0))


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight runs``.

    Raises:
        UserError: a filter that cannot be read, or a metric that no run has.
    """
    parser = argparse.ArgumentParser(
        prog="mmlight runs",
        description="List runs, those that were active last at the end. Reads run folders only "
        "(and squeue for the state of launched ones).",
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="an experiment, NAME/ID, or a pattern of these"
    )
    parser.add_argument(
        "--status",
        action="append",
        default=[],
        choices=("waiting", "running", "finished", "failed", "stopped", "cancelled", "unknown"),
        help="only runs in this state; may be given more than once",
    )
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="only runs with this setting or score: optimizer.lr=0.001, run.tags=paper, "
        "'val/loss<0.5' (=, !=, <, <=, >, >=); all that are given must hold",
    )
    parser.add_argument("--metric", help="show this one, and list the best first")
    parser.add_argument(
        "--show", action="append", default=[], metavar="KEY", help="also show this setting"
    )
    parser.add_argument("--all", action="store_true", help=f"more than the last {_SHOWN}")
    only = parser.add_mutually_exclusive_group()
    only.add_argument(
        "-q", "--quiet", action="store_true", help="only NAME/ID, as other commands take them"
    )
    only.add_argument("--csv", action="store_true", help="as CSV, with all digits")
    parser.add_argument("--root", default="runs", help="the folder of all runs (default: runs)")
    options = parser.parse_args(argv)
    runs = list_runs(
        options.root,
        names=options.names,
        states=options.status,
        conditions=[Condition.parse(text) for text in options.where],
        missing=note,
    )
    for key in options.show:
        check_key(runs, key, flag=f"--show {key}")
    if options.metric:
        runs = _by_metric(runs, options.metric)
    if options.quiet:
        say(*(run.label for run in runs))
    elif options.csv:
        _print_csv(runs, options)
    elif not runs:
        say(f"no such run in {options.root}")
    else:
        _print_table(runs, options)
    return 0


def _by_metric(runs: list[ListedRun], metric: str) -> list[ListedRun]:
    found = [(run, value) for run in runs if (value := run.value(metric)) is not None]
    if runs and not found:
        names = metric_names(runs)
        raise UserError(f"--metric {metric}: none of these runs has it{nearest(metric, names)}")
    keys = ("checkpoint.monitor", "checkpoint.monitor_mode")
    modes = ((run.setting(keys[0]), run.setting(keys[1])) for run, _ in found)
    sign = -1 if direction(metric, modes=modes) == "max" else 1

    def place(pair: tuple[ListedRun, float]) -> tuple[bool, float]:
        return (pair[1] != pair[1], sign * pair[1])

    return [run for run, _ in sorted(found, key=place)]


def _print_table(runs: list[ListedRun], options: argparse.Namespace) -> None:
    shown = runs
    if not options.all and len(runs) > _SHOWN:
        shown = runs[:_SHOWN] if options.metric else runs[-_SHOWN:]
    metric = options.metric or "score"
    columns = [
        Column("run"),
        Column("state", styles=STYLES),
        Column("steps", right=True),
        *(Column(key, right=True) for key in options.show),
        Column(metric, right=bool(options.metric), wraps=True),
        Column("ago", right=True),
    ]
    rows = [
        (
            run.label,
            run.state,
            f"{run.scanned.step:,}",
            *(_text(run.setting(key)) for key in options.show),
            _score(run, options.metric),
            _ago(run.scanned.touched_at),
        )
        for run in shown
    ]
    console = Terminal(soft_wrap=not sys.stdout.isatty())
    show(columns, rows, console, width=fitting_width(console))
    if len(shown) < len(runs):
        which = "best" if options.metric else "last"
        console.print(f"the {which} {len(shown)} of {len(runs):,} runs; --all shows all")


def _print_csv(runs: list[ListedRun], options: argparse.Namespace) -> None:
    metrics = [options.metric] if options.metric else metric_names(runs)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(map(one_line, ["run", "state", "steps", *options.show, *metrics]))
    for run in runs:
        shown = [_text(run.setting(key)) for key in options.show]
        values = ["" if (v := run.value(name)) is None else v for name in metrics]
        cells = [run.label, run.state, run.scanned.step, *shown, *values]
        writer.writerow([one_line(c) if isinstance(c, str) else c for c in cells])


def _score(run: ListedRun, metric: str | None) -> str:
    name = metric or run.main_metric
    found = run.value(name) if name is not None else None
    if name is None or found is None:
        return ""
    value = format_value(name, found)
    return value if metric else f"{name} {value}"


def _text(value: object) -> str:
    return "-" if value is None else str(value)


def _ago(moment: float) -> str:
    seconds = max(0.0, time.time() - moment)
    unit, size = next((u for u in _UNITS if seconds >= u[1]), _UNITS[-1])
    return f"{seconds / size:.0f} {unit}"
