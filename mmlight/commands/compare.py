"""``mmlight compare``: what came out of several runs, side by side."""

import argparse
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from mmlight.errors import UserError
from mmlight.runs.run.find import find_all
from mmlight.runs.show.compare.grids import settings_digits, settings_grid
from mmlight.runs.show.compare.run import ComparedRun, read_run
from mmlight.runs.show.compare.settings import group, ranked, resolve_metrics
from mmlight.runs.show.compare.write import write_comparison
from mmlight.runs.show.grid import FORMATS
from mmlight.terminal import Terminal, note

# Runs of two experiments may differ in a hundred.
_MOST_SETTINGS = 8


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight compare``.

    Raises:
        UserError: no such run or metric.
    """
    parser = argparse.ArgumentParser(
        prog="mmlight compare",
        description="Compare runs: settings that differ, final and best scores with their standard "
        "deviation over seeds, what they cost, curves. Reads run folders only. Prints a table, and "
        "writes CSV, Markdown, pictures and one page that needs no network.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="NAME/ID, an id, a folder; NAME for all of its runs; or a pattern, 'NAME/2026*'",
    )
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        help="compare by this one, such as val/recall_at_1 (the mean over pairs where there are "
        "several); may be given more than once (default: the main scores)",
    )
    parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="KEY",
        help="settings that differ only in this key are one; `code` and `data` too",
    )
    parser.add_argument("--root", default="runs", help="the folder of all runs (default: runs)")
    parser.add_argument(
        "--out", type=Path, help="where to write (default: ROOT/comparisons/DATE-TIME)"
    )
    parser.add_argument(
        "--wandb",
        metavar="ENTITY/PROJECT",
        help="read the runs from W&B instead; RUN is a group, an id, or NAME/ID",
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="table",
        help="how settings are printed; csv has all digits (default: %(default)s)",
    )
    options = parser.parse_args(argv)
    runs = _from_wandb(options.wandb, options.runs) if options.wandb else _read(options)
    metrics = resolve_metrics(runs, options.metric)
    settings = ranked(group(runs, ignore=options.ignore), metrics[0])
    is_table = options.format == "table"
    console = Terminal(stderr=not is_table)
    if is_table:
        console.print(settings_grid(settings, metrics, most=_MOST_SETTINGS))
    else:
        grid = settings_digits if options.format == "csv" else settings_grid
        grid(settings, metrics).print(options.format, title="Runs compared")
    if is_table and (left := list(settings[0].differs)[_MOST_SETTINGS:]):
        console.print(
            f"{len(left)} more settings differ (the page has all): {', '.join(left[:4])}, ..."
        )
    unfinished = [run for run in runs if not run.is_finished]
    if unfinished:
        shown = ", ".join(f"{run.label} ({run.state})" for run in unfinished)
        console.print(f"not finished: {shown}", soft_wrap=True)
    out = options.out or Path(options.root) / "comparisons" / f"{datetime.now():%Y%m%d-%H%M%S}"
    console.print(
        f"page: {write_comparison(settings, metrics, out)}",
        f"tables: {out / 'settings.csv'}, settings.md, runs.csv",
        sep="\n",
        soft_wrap=True,
    )
    return 0


def _read(options: argparse.Namespace) -> list[ComparedRun]:
    runs, damaged = [], []
    for run in find_all(options.runs, root=options.root):
        try:
            runs.append(read_run(run))
        except UserError as error:
            damaged.append(error)
    if damaged and not runs:
        raise damaged[0]
    for said in damaged:
        note(f"{said}; it is left out")
    return runs


def _from_wandb(place: str, references: Sequence[str]) -> list[ComparedRun]:
    if place.count("/") != 1:
        raise UserError(f"--wandb {place}: name it as ENTITY/PROJECT")
    from mmlight.runs.wandb.api import fetch

    return fetch(place, references)
