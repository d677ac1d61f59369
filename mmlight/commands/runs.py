"""``mmlight runs``: which runs there are."""

import argparse
import time
from collections.abc import Sequence
from fnmatch import fnmatch

from mmlight.errors import UserError, nearest
from mmlight.runs.run.filters import Condition, check_key, filtered, metric_names
from mmlight.runs.run.find import all_runs
from mmlight.runs.run.folder import Run
from mmlight.runs.run.state import STYLES, Queue, jobs_of, state_of
from mmlight.runs.show.grid import FORMATS, Column, Grid
from mmlight.runs.slurm.durations import readable
from mmlight.scores import direction, format_value
from mmlight.terminal import note, say

_SHOWN = 40


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
    only.add_argument(
        "--format",
        choices=FORMATS,
        default="table",
        help="csv has all runs and metrics with all digits (default: %(default)s)",
    )
    only.add_argument(
        "--csv", action="store_const", const="csv", dest="format", help="short for --format csv"
    )
    parser.add_argument("--root", default="runs", help="the folder of all runs (default: runs)")
    options = parser.parse_args(argv)
    conditions = [Condition.parse(text) for text in options.where]
    named = [run for run in all_runs(options.root) if _is_named(run, options.names)]
    runs = sorted(filtered(named, conditions), key=lambda run: run.touched_at)
    queue = jobs_of(runs, missing=note)
    if options.status:
        runs = [run for run in runs if state_of(run, queue).word in options.status]
    for key in options.show:
        check_key(runs, key, flag=f"--show {key}")
    if options.metric:
        runs = _by_metric(runs, options.metric)
    if options.quiet:
        say(*(run.label for run in runs))
    elif options.format == "csv":
        _all_digits(runs, queue, options).print("csv")
    elif not runs:
        say(f"no such run in {options.root}")
    else:
        shown = runs
        if not options.all and len(runs) > _SHOWN:
            shown = runs[:_SHOWN] if options.metric else runs[-_SHOWN:]
        _grid(shown, queue, options).print(options.format, title=f"Runs in {options.root}")
        if len(shown) < len(runs):
            which = "best" if options.metric else "last"
            note(f"the {which} {len(shown)} of {len(runs):,} runs; --all shows all")
    return 0


def _grid(runs: list[Run], queue: Queue, options: argparse.Namespace) -> Grid:
    metric = options.metric
    columns = (
        *(Column("run"), Column("state", styles=STYLES), Column("steps", align="right")),
        *(Column(key, align="right") for key in options.show),
        Column(metric or "score", align="right" if metric else "left", wraps=True),
        Column("ago", align="right"),
    )
    rows = [
        (
            run.label,
            state_of(run, queue).word,
            f"{run.step:,}",
            *(_text(run.setting(key)) for key in options.show),
            _score(run, metric),
            readable(max(0.0, time.time() - run.touched_at)),
        )
        for run in runs
    ]
    return Grid(columns, tuple(rows))


def _all_digits(runs: list[Run], queue: Queue, options: argparse.Namespace) -> Grid:
    metrics = [options.metric] if options.metric else metric_names(runs)
    names = ["run", "state", "steps", *options.show, *metrics]
    rows = [
        (
            *(run.label, state_of(run, queue).word, run.step),
            *(_text(run.setting(key)) for key in options.show),
            *(run.value(name) for name in metrics),
        )
        for run in runs
    ]
    return Grid(tuple(map(Column, names)), tuple(rows))


def _is_named(run: Run, names: Sequence[str]) -> bool:
    return not names or any(
        fnmatch(run.label, name if "/" in name else f"{name}/*") or name in (run.id, run.label)
        for name in names
    )


def _by_metric(runs: list[Run], metric: str) -> list[Run]:
    found = [(run, value) for run in runs if (value := run.value(metric)) is not None]
    if runs and not found:
        names = metric_names(runs)
        raise UserError(f"--metric {metric}: none of these runs has it{nearest(metric, names)}")
    keys = ("checkpoint.monitor", "checkpoint.monitor_mode")
    modes = ((run.setting(keys[0]), run.setting(keys[1])) for run, _ in found)
    sign = -1 if direction(metric, modes=modes) == "max" else 1

    def place(pair: tuple[Run, float]) -> tuple[bool, float]:
        return (pair[1] != pair[1], sign * pair[1])

    return [run for run, _ in sorted(found, key=place)]


def _score(run: Run, metric: str | None) -> str:
    name = metric or run.main_metric
    found = run.value(name) if name is not None else None
    if name is None or found is None:
        return ""
    value = format_value(name, found)
    return value if metric else f"{name} {value}"


def _text(value: object) -> str:
    return "-" if value is None else str(value)
