"""What ``--ckpt_path`` names: a run's newest or best checkpoint, by a word or by its folder."""

import os
from dataclasses import dataclass
from pathlib import Path

from mmlight.errors import UserError
from mmlight.experiment.arguments import AUTO, BEST, LAST
from mmlight.runs.run.ckpt_path import best_checkpoint, describe_last, last_run
from mmlight.runs.run.folder import Run
from mmlight.signals import is_first_rank
from mmlight.terminal import say


@dataclass(frozen=True)
class Chosen:
    """A checkpoint of a run that is known.

    Attributes:
        run: the run.
        checkpoint: one of its checkpoints.
    """

    run: Run
    checkpoint: Path


def choose(asked: str | None, *, verb: str, root: str, name: str) -> Chosen | None:
    """Return the run and the checkpoint that ``last`` or ``best`` mean, and say which they are.

    Args:
        asked: the value of ``--ckpt_path``.
        verb: the verb.
        root: the folder of all runs.
        name: the experiment's name.

    Returns:
        Them; None where a file or a folder is named, or nothing.

    Raises:
        UserError: there is none, or the verb has no use for it.
    """
    if asked is None and verb != "fit":
        raise UserError(
            f"{verb} needs trained weights: --ckpt_path FILE or RUN_FOLDER, or --ckpt_path {LAST} "
            f"or {BEST}"
        )
    if asked == AUTO and verb != "fit":
        raise UserError(f"--ckpt_path {AUTO} is for fit; {verb} takes a file, '{LAST}' or '{BEST}'")
    if asked == BEST and verb == "fit":
        raise UserError(
            f"--ckpt_path {BEST} is for evaluations: a training goes on from its newest checkpoint "
            f"({LAST}); to begin another one with those weights, name the file, or give a tower "
            "from_run: RUN_FOLDER/best"
        )
    if asked not in (LAST, BEST):
        return None
    run = last_run(root, name=name)
    if asked == BEST:
        best = best_checkpoint(run)
        checkpoint, told = best.path, f"{run.label}: {best}"
    else:
        newest = run.newest_checkpoint()
        assert newest is not None, "it would not have been chosen"
        checkpoint, told = newest, describe_last(run, newest)
    if is_first_rank(os.environ):
        say(f"--ckpt_path {asked}: {told}")
    return Chosen(run, checkpoint)


def check_test_with(asked: str, *, test: bool, monitor: str | None) -> None:
    """Refuse to score the test set with best weights that there won't be.

    Args:
        asked: ``run.test_with``.
        test: ``run.test``.
        monitor: ``checkpoint.monitor``.

    Raises:
        UserError: nothing is tested, or no best checkpoint is kept.
    """
    if asked == BEST and not test:
        raise UserError(f"run.test_with: {BEST} has no effect without run.test: true")
    if asked == BEST and monitor is None:
        raise UserError(
            f"run.test_with: {BEST} needs checkpoint.monitor, such as val/accuracy: what is best?"
        )


def tested_checkpoint(run: Run, asked: str) -> str | None:
    """Return the checkpoint that the test set is scored with; None for the weights as they are.

    Every rank may call it.

    Args:
        run: the run, trained.
        asked: ``run.test_with``.

    Raises:
        UserError: no validation has chosen one.
    """
    if asked != BEST:
        return None
    best = best_checkpoint(run, key=f"run.test_with: {BEST}")
    if is_first_rank(os.environ):
        say(f"test with {best}")
    return str(best.path)
