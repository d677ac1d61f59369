"""``mmlight evaluate``: models on a suite of sets, in one table."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lightning.fabric import Fabric

from mmlight import comm
from mmlight.errors import UserError
from mmlight.experiment.messages import quieten
from mmlight.runs.show.grid import FORMATS
from mmlight.signals import is_first_rank
from mmlight.suites.evaluation import compute, score
from mmlight.suites.features import DECODERS
from mmlight.suites.job import How, plan
from mmlight.suites.model import open_model
from mmlight.suites.suite import read_suite
from mmlight.suites.table import scores_digits, scores_grid, write_results
from mmlight.terminal import Terminal


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight evaluate``.

    Raises:
        UserError: no such model, suite or shards, or a set that is not what the suite says.
    """
    parser = argparse.ArgumentParser(
        prog="mmlight evaluate",
        description="Evaluate models on the sets of a suite: zero-shot, retrieval, probes, pairs. "
        "Features are computed once for each model and set, by all ranks, and kept; what is "
        "interrupted goes on where it stopped. Prints a table with intervals of 95 %, and writes "
        "CSV, Markdown, a picture of model against model and a page.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="[NAME=]MODEL",
        help="a run's folder, a checkpoint, an export, a folder of open_clip or transformers, or "
        "a model on the hub; may be given more than once",
    )
    parser.add_argument("--suite", type=Path, required=True, help="a YAML file of sets")
    parser.add_argument(
        "--out", type=Path, help="where results go (default: ROOT/evaluations/SUITE)"
    )
    parser.add_argument(
        "--cache", type=Path, help="where features are kept (default: ROOT/features)"
    )
    parser.add_argument("--root", type=Path, default=Path("runs"), help="default: %(default)s")
    parser.add_argument("--devices", type=int, default=1, help="ranks (default: %(default)s)")
    parser.add_argument(
        "--accelerator", default="auto", choices=("auto", "cpu", "gpu"), help="default: %(default)s"
    )
    parser.add_argument(
        "--batch-size", type=int, default=64, help="samples embedded at once (%(default)s)"
    )
    parser.add_argument(
        "--workers", type=int, default=DECODERS, help="that decode, per rank (%(default)s)"
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="table",
        help="how the table is printed; csv has all digits (default: %(default)s)",
    )
    parser.add_argument(
        "--import", metavar="MODULE", help="a module of your own whose classes a model may name"
    )
    options = parser.parse_args(argv)
    for key, least in (("devices", 1), ("batch_size", 1), ("workers", 0)):
        if getattr(options, key) < least:
            raise UserError(f"--{key.replace('_', '-')} {getattr(options, key)}: at least {least}")
    quieten()
    suite = read_suite(options.suite)
    names: set[str] = set()
    models = [open_model(given, names=names) for given in options.model]
    how = How(
        out=options.out or options.root / "evaluations" / suite.name,
        cache=options.cache or options.root / "features",
        device=_fabric(options).device,
        workers=options.workers,
        batch_size=options.batch_size,
    )
    # Before further ranks are started: each would tell the same mistake.
    jobs = plan(models, suite, how=how, tells=is_first_rank())
    if options.devices > 1:
        fabric = _fabric(options)
        fabric.launch()
        how = replace(how, device=fabric.device)
    compute(jobs, how)
    if comm.rank() != 0:
        return 0
    results = score(jobs, how)
    grid = scores_digits(results) if options.format == "csv" else scores_grid(results)
    grid.print(options.format, title=suite.name)
    page = write_results(results, name=suite.name, folder=how.out)
    console = Terminal(stderr=options.format != "table")
    console.print(f"page: {page}", f"tables: {how.out / 'scores.csv'}, scores.md", sep="\n")
    return 0


def _fabric(options: argparse.Namespace) -> Fabric:
    several = options.devices > 1
    try:
        return Fabric(
            accelerator=options.accelerator,
            devices=options.devices,
            strategy="ddp" if several else "auto",
        )
    except (ValueError, RuntimeError) as error:  # more devices than there are
        raise UserError(f"--devices {options.devices}: {' '.join(str(error).split())}") from error
