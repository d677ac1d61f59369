"""``mmlight reproduce``: runs a recorded run again, by its own code and settings."""

import argparse
import os
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmlight.errors import UserError
from mmlight.runs.code.checkout import recorded_code
from mmlight.runs.code.losses import Logged, first_difference, read_losses
from mmlight.runs.code.recorded import (
    Difference,
    Recorded,
    describe,
    differences_after,
    differences_before,
    read_recorded,
    recorded_environment,
)
from mmlight.runs.plan.processes import Command, ends_on_term, run_one
from mmlight.runs.run.find import find
from mmlight.runs.run.folder import Run
from mmlight.runs.run.ids import RUN_ID
from mmlight.runs.show.grid import Grid
from mmlight.terminal import Terminal, agrees, say

_POLL_S = 0.5


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight reproduce``.

    Raises:
        UserError: a folder that holds no run, or code that this repository lacks.
    """
    parser = argparse.ArgumentParser(
        prog="mmlight reproduce",
        description="Run a recorded run again in a fresh run folder beside it: its commit with "
        "what was uncommitted, checked out into a temporary work tree, and its resolved "
        "configuration. Shows what it would run, and asks. Says which packages, devices and data "
        "differ from those recorded.",
    )
    parser.add_argument("run", metavar="RUN", help="NAME/ID, ID, a path, or its begin")
    parser.add_argument(
        "--check",
        type=int,
        metavar="N",
        help="stop after the first N logged losses (every trainer.log_every_n_steps steps), or at "
        "the first that is not equal to the recorded one bit for bit; exit code 1 if there is one",
    )
    parser.add_argument("--root", default="runs", help="the folder of all runs (default: runs)")
    parser.add_argument(
        "--repository",
        type=Path,
        action="append",
        default=[],
        help="a clone that has the run's commit (default: that of this mmlight, and for code of "
        "the user's own the folder where it was); may be given more than once",
    )
    parser.add_argument(
        "-y", "--yes", action="store_true", help="don't ask: the run's folder is trusted"
    )
    options = parser.parse_args(argv)
    if options.check is not None and options.check < 1:
        raise UserError(f"--check {options.check}: must be 1 or more")
    run = find(options.run, root=options.root)
    recorded = read_recorded(run.path)
    losses = read_losses(run.metrics_jsonl)
    if options.check is not None and not losses:
        raise UserError(
            f"--check: {run.path} has logged no loss; it logs one every "
            f"{recorded.config['trainer'].get('log_every_n_steps') or 50} steps"
        )
    again = Run(run.path.resolve().with_name(f"{run.id}-again-{secrets.token_hex(2)}"))
    arguments = _arguments(recorded, again, check=options.check)
    say(*describe(recorded, arguments))
    if not options.yes and not sys.stdin.isatty():
        raise UserError(
            "a run's folder is code: look at what would be run, and say --yes if it is trusted"
        )
    if not options.yes and not agrees("Run this?"):
        return 1
    watch = _Watch(recorded, again, losses[: options.check], options.check)
    with ends_on_term(), recorded_code(recorded, options.repository) as paths:
        _show_differences(differences_before(recorded))
        before = filter(None, [os.environ.get("PYTHONPATH")])
        environment = {
            **recorded_environment(recorded),
            "PYTHONPATH": os.pathsep.join([*map(str, paths), *before]),
            RUN_ID: again.id,
        }
        command = Command(arguments, environment, folder=recorded.folder)
        ended = run_one(command, should_stop=watch.is_done, poll_s=_POLL_S)
    watch.show_differences()
    return watch.conclude(ended.code)


@dataclass
class _Watch:
    """Follows the new run: shows what differs as soon as it is known, and compares losses."""

    recorded: Recorded
    again: Run
    losses: list[Logged]
    check: int | None
    shown: bool = False

    def is_done(self) -> bool:
        """Return whether the run has shown what was asked."""
        self.show_differences()
        if self.check is None:
            return False
        now = self.now()
        return len(now) == len(self.losses) or first_difference(self.losses, now) is not None

    def now(self) -> list[Logged]:
        return read_losses(self.again.metrics_jsonl)[: len(self.losses)]

    def show_differences(self) -> None:
        if not self.shown and self.again.provenance_json.exists():
            self.shown = True
            _show_differences(differences_after(self.recorded, self.again))

    def conclude(self, code: int) -> int:
        """Say how the losses compare; return the exit code."""
        say(f"recorded: {self.recorded.run.path}", f"again:    {self.again.path}")
        now = self.now()
        first = first_difference(self.losses, now)
        if first is not None:
            say(f"{first.what} was {first.before}, now it is {first.now}: the first that differs")
            return 1 if self.check is not None else code
        if now:
            share = f"{len(now)} of {len(self.losses)} logged losses"
            say(f"{share}: equal bit for bit (to step {now[-1].step})")
        if self.check is None:
            return code
        if len(self.losses) < self.check:
            say(f"--check {self.check}: the run has logged {len(self.losses)} only")
        if len(now) < len(self.losses):
            say(f"the run ended with code {code} after {len(now)} logged losses, too few to tell")
            return 1
        return 0


def _arguments(recorded: Recorded, again: Run, *, check: int | None) -> list[str]:
    nodes = int(recorded.config["trainer"].get("num_nodes") or 1)
    if nodes > 1:
        raise UserError(
            f"run {recorded.run.path}: trained on {nodes} nodes, and this starts processes on one "
            "only; submit its config.yaml from its commit instead"
        )
    arguments = [
        *("fit", "-c", str(recorded.run.config_yaml.resolve())),
        *(f"--run.root={again.path.parents[1]}", f"--run.name={again.name}"),
        f"--run.id={again.id}",
    ]
    if recorded.ckpt_path:
        arguments.append(f"--ckpt_path={recorded.ckpt_path}")
    if check is not None:
        arguments.append("--run.wandb=off")
    return arguments


def _show_differences(found: Sequence[Difference]) -> None:
    if found:
        rows = [{"differs": d.what, "recorded": d.before, "now": d.now} for d in found]
        Terminal().print(Grid.of_records(rows))
