"""``mmlight lr-find``: a learning-rate range test of an experiment."""

import argparse
from collections.abc import Sequence

from mmlight.callbacks.measuring.short_runs import LrRange
from mmlight.callbacks.showing.progress import Progress
from mmlight.errors import UserError
from mmlight.experiment.build import Experiment, assemble
from mmlight.files import csv_text, write_text
from mmlight.optim.lr_range import suggest
from mmlight.runs.plots.lr_range import plot_lr_range
from mmlight.tasks.task import Task
from mmlight.terminal import say

_FEWEST = 20


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight lr-find``.

    Raises:
        UserError: settings out of range, or anything `mmlight fit` refuses.
    """
    parser = argparse.ArgumentParser(
        prog="mmlight lr-find",
        description="Train a few steps while the learning rate rises, and say at which rate the "
        "loss falls fastest (arXiv 1506.01186). Takes what `mmlight fit` takes, and leaves a "
        "picture and a table in a folder of its own, runs/NAME/lr-find-*; no checkpoint is "
        "written.",
        allow_abbrev=False,
    )
    parser.add_argument("--lowest", type=float, default=1e-7, help="first rate (default 1e-7)")
    parser.add_argument("--highest", type=float, default=1.0, help="last rate (default 1)")
    parser.add_argument("--steps", type=int, default=100, help="optimiser steps (default 100)")
    options, rest = parser.parse_known_args(list(argv))
    if not 0 < options.lowest < options.highest:
        raise UserError(
            f"--lowest {options.lowest:g} and --highest {options.highest:g}: both must be above 0, "
            "the first below the second"
        )
    if options.steps < _FEWEST:
        raise UserError(f"--steps {options.steps}: a curve needs {_FEWEST} or more")
    if any(argument.partition("=")[0] == "--ckpt_path" for argument in rest):
        raise UserError(
            "lr-find starts as the experiment does; to start from other weights, name them in it "
            "(model.init_args.towers.image.from_run)"
        )
    watch = LrRange(lowest=options.lowest, highest=options.highest, num_steps=options.steps)
    experiment = assemble("fit", rest)
    experiment.begin(
        kind="lr-find",
        # Nothing is logged, averaged or saved.
        callbacks=[watch, Progress()],
        changes={"limit_val_batches": 0, "enable_checkpointing": False, "logger": False},
    )
    with experiment.work():
        experiment.call()
        if experiment.trainer.is_global_zero:
            _tell(watch, experiment)
    return 0


def _tell(watch: LrRange, experiment: Experiment) -> None:
    """Draw the curve and say what it means."""
    lrs, losses = watch.lrs, watch.losses
    found = suggest(lrs, losses)
    rows = [{"lr": lr, "loss": loss} for lr, loss in zip(lrs, losses, strict=True)]
    write_text(experiment.folder.path / "lr_find.csv", csv_text(rows, ("lr", "loss")))
    picture = plot_lr_range(lrs, losses, found, experiment.folder.path / "lr_find.png")
    if found is None:
        say(
            f"in {len(losses)} steps, from {lrs[0]:.1e} to {lrs[-1]:.1e}, the loss never fell: "
            f"no rate can be suggested. See {picture}; --steps and --highest go further"
        )
        return
    say(
        f"the loss falls fastest at {found.lr:.1e} and is lowest at {found.lowest:.1e} "
        f"({len(losses)} steps up to {lrs[-1]:.1e})"
    )
    say("for the YAML:", *yaml_lines(found.lr, experiment.task))
    say(f"picture: {picture}")


def yaml_lines(lr: float, task: Task) -> list[str]:
    """Return the lines that set a rate, and a backbone's own rate in the ratio it was tested at.

    A backbone whose rate is a tenth of `optimizer.lr` follows by itself; one whose rate was set, or
    comes from the run it was pretrained in, does not.
    """
    lines = ["model:", "  init_args:", f"    optimizer: {{lr: {lr:.1e}}}"]
    before = task.optimizer_settings.lr
    fixed = task.tuning.backbone_lr
    sources = [task.tower(name).source for name in task.tower_settings.given()]
    rates = {s.lr * 0.1 for s in sources if s is not None and s.lr is not None}
    if fixed is None and len(rates) == 1 and task.tuning.method == "full":
        (fixed,) = rates
    if fixed is not None:
        lines.append(f"    tuning: {{backbone_lr: {fixed / before * lr:.1e}}}")
    elif len(rates) > 1:
        lines.append(f"    # the backbones' rates were {lr / before:.2g} times those of their runs")
    return lines
