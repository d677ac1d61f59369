"""``mmlight sweep``: runs one experiment with many settings."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

import yaml

from mmlight.errors import UserError
from mmlight.runs.files import write_text
from mmlight.runs.sweep import Sweep, load, trial_runs
from mmlight.runs.sweep_local import arguments, run_here
from mmlight.runs.sweep_results import SweepFolder
from mmlight.runs.sweep_wandb import wandb_config


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
    only.add_argument(
        "--retry-failed",
        action="store_true",
        help="run only those again that were begun and have not finished",
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
    return run_here(sweep, folder, failed_only=options.retry_failed)


def _write_wandb(sweep: Sweep, folder: SweepFolder) -> int:
    config = wandb_config(sweep, name=folder.name, root=str(folder.root))
    path = folder.path / "wandb_sweep.yaml"
    write_text(path, yaml.safe_dump(config, sort_keys=False))
    print(
        f"{path}\nwandb sweep --project mmlight {path}   (says the sweep's ID)\n"
        "wandb agent ENTITY/mmlight/ID   (here, on as many machines as you like)"
    )
    return 0
