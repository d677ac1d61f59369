"""``mmlight sweep``: runs one experiment with many settings."""

import argparse
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmlight import yaml_text
from mmlight.commands.sweep_array import submit_sweep
from mmlight.errors import UserError
from mmlight.files import write_text
from mmlight.runs.plan.configs import wandb_config
from mmlight.runs.plan.local import arguments, conclude, run_here
from mmlight.runs.plan.results import SweepFolder
from mmlight.runs.plan.status import jobs_now, progress, record_results
from mmlight.runs.plan.sweep import Sweep, load, trial_runs
from mmlight.runs.run.lock import RunLock
from mmlight.runs.slurm.profile import take_changes
from mmlight.signals import Interrupted
from mmlight.terminal import say


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight sweep``.

    Raises:
        UserError: a mistake in the sweep's file, or a first run that fails.
    """
    parser = argparse.ArgumentParser(
        prog="mmlight sweep",
        description="Run one experiment with many settings, each as a normal run below runs/NAME: "
        "one after another here, or with --cluster as one SLURM array. Started again, it goes on "
        "where it was: finished runs are not run again, and one that was broken off continues from "
        "its checkpoint.",
        epilog="example: mmlight sweep -c experiments/sweeps/NAME.yaml --cluster "
        "slurm/clusters/SITE.yaml --max-concurrent 4",
        allow_abbrev=False,
    )
    parser.add_argument("-c", "--config", type=Path, required=True, help="the sweep's YAML file")
    parser.add_argument("--name", help="the sweep's name (default: that of the file)")
    parser.add_argument("--root", default="runs", help="the folder of all runs (default: runs)")
    on_slurm = parser.add_argument_group("as one SLURM array")
    on_slurm.add_argument("--cluster", type=Path, help="the cluster's profile, a YAML file")
    on_slurm.add_argument("--cluster.KEY", metavar="VALUE", help="a value in place of its own")
    on_slurm.add_argument("--max-concurrent", type=int, metavar="N", help="run N at a time at most")
    on_slurm.add_argument("--dry-run", action="store_true", help="print the job script only")
    only = parser.add_mutually_exclusive_group()
    only.add_argument(
        "--retry-failed",
        action="store_true",
        help="run only those again that were begun and have not finished",
    )
    only.add_argument("--status", action="store_true", help="print the table, and run none")
    only.add_argument(
        "--list", action="store_true", help="print the command of each run, and run none"
    )
    only.add_argument(
        "--wandb", action="store_true", help="write the sweep for W&B's agents, and run none"
    )
    given, changes = take_changes(argv)
    options = parser.parse_args(given)
    _check(options, changes)
    sweep = load(options.config)
    folder = SweepFolder(Path(options.root), options.name or options.config.stem)
    if options.list:
        if sweep.searcher == "optuna":
            raise UserError("--list: optuna decides trial by trial; use searcher grid or random")
        for number, values in enumerate(sweep.combinations()):
            for run in trial_runs(sweep, number, values):
                say(shlex.join(["mmlight", *arguments(run, sweep, folder)]))
        return 0
    if options.wandb:
        return _write_wandb(sweep, folder)
    if options.status:
        return _show(sweep, folder)
    if options.cluster is not None:
        return submit_sweep(sweep, folder, options, changes=changes)
    folder.open(sweep)
    try:
        with RunLock(folder.path, instead="give this one another --name"):
            return run_here(sweep, folder, failed_only=options.retry_failed)
    except Interrupted:
        raise Interrupted("stopped by Ctrl-C; the same command goes on with the sweep") from None


def _check(options: argparse.Namespace, changes: Mapping[str, str]) -> None:
    if options.cluster is None:
        for flag, value in (
            ("--max-concurrent", options.max_concurrent),
            ("--dry-run", options.dry_run),
            (f"--cluster.{next(iter(changes), '')}", changes),
        ):
            if value:
                raise UserError(f"{flag} is for a SLURM array: give --cluster FILE, too")
    elif options.status or options.list or options.wandb:
        raise UserError("--cluster submits the sweep; leave it out with --status, --list, --wandb")
    if options.max_concurrent is not None and options.max_concurrent < 1:
        raise UserError(f"--max-concurrent {options.max_concurrent}: must be 1 or more")


def _show(sweep: Sweep, folder: SweepFolder) -> int:
    if not folder.path.is_dir():
        raise UserError(f"there is no sweep in {folder.path}; --name and --root say where it is")
    results = record_results(sweep, folder, queue=jobs_now(folder))
    say(f"{folder.name}: {progress(results, sweep)}")
    conclude(results, sweep, folder)
    return 0


def _write_wandb(sweep: Sweep, folder: SweepFolder) -> int:
    config = wandb_config(sweep, name=folder.name, root=str(folder.root))
    path = folder.path / "wandb_sweep.yaml"
    write_text(path, yaml_text.dump(config))
    say(
        path,
        f"wandb sweep --project mmlight {path}   (says the sweep's ID)",
        "wandb agent ENTITY/mmlight/ID   (here, on as many machines as you like)",
    )
    return 0
