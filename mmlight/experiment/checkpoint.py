"""What ``--ckpt_path`` names: a run's newest or best checkpoint, by a word or by its folder."""

from pathlib import Path

from mmlight.callbacks.recording.run_settings import RunSettings
from mmlight.errors import UserError
from mmlight.experiment.arguments import AUTO, BEST, LAST
from mmlight.runs.run.ckpt_path import best_checkpoint, describe_last, last_run
from mmlight.runs.run.folder import Run
from mmlight.saved.locate import locate
from mmlight.signals import is_first_rank
from mmlight.terminal import say


def find_checkpoint(
    asked: str | None, *, verb: str, root: str, name: str, is_whole: bool = False
) -> tuple[Run | None, Path | None]:
    """Return the run that ``last`` or ``best`` mean, if they are given, and the checkpoint.

    Which they are is said. A checkpoint that is named begins, or is evaluated in, a run of its own.

    Args:
        asked: the value of ``--ckpt_path``.
        verb: the verb.
        root: the folder of all runs.
        name: the experiment's name.
        is_whole: whether the model has all its weights already, by `model.from_pretrained`.

    Raises:
        UserError: there is none, or the verb has no use for it.
    """
    is_training = verb == "fit"
    if asked is None and not is_training and not is_whole:
        raise UserError(
            f"{verb} needs trained weights: --ckpt_path FILE or RUN_FOLDER, or --ckpt_path {LAST} "
            f"or {BEST}"
        )
    if asked == AUTO and not is_training:
        raise UserError(f"--ckpt_path {AUTO} is for fit; {verb} takes a file, '{LAST}' or '{BEST}'")
    if asked == BEST and is_training:
        raise UserError(
            f"--ckpt_path {BEST} is for evaluations: a training goes on from its newest checkpoint "
            f"({LAST}); to begin another one with those weights, name the file, or give a tower "
            "from_run: RUN_FOLDER/best"
        )
    if asked in (None, AUTO):
        return None, None
    if asked not in (LAST, BEST):
        found = locate(asked, key="--ckpt_path")
        if is_training and found.kind == "export":
            raise UserError(
                f"--ckpt_path {asked} is an export, which has no state to go on training from; "
                "give the checkpoint it was made of, or begin with its weights: "
                f"--model.towers.MODALITY.from_run {asked}"
            )
        return None, found.path
    run = last_run(root, name=name)
    if asked == BEST:
        best = best_checkpoint(run)
        checkpoint, about = best.path, f"{run.label}: {best}"
    else:
        newest = run.newest_checkpoint()
        assert newest is not None, "it would not have been chosen"
        checkpoint, about = newest, describe_last(run, newest)
    if is_first_rank():
        say(f"--ckpt_path {asked}: {about}")
    return run, checkpoint


def check_test_with(settings: RunSettings, *, monitor: str | None) -> None:
    """Refuse to score the test set with best weights that there won't be.

    Args:
        settings: of the run.
        monitor: ``checkpoint.monitor``.

    Raises:
        UserError: nothing is tested, or no best checkpoint is kept.
    """
    if settings.test_with == BEST and not settings.test:
        raise UserError(f"run.test_with: {BEST} has no effect without run.test: true")
    if settings.test_with == BEST and monitor is None:
        raise UserError(
            f"run.test_with: {BEST} needs checkpoint.monitor, such as val/accuracy: what is best?"
        )


def tested_checkpoint(run: Run, asked: str) -> str | None:
    """Return the checkpoint that the test set is scored with; None for the weights as they are.

    Args:
        run: the run, trained; every rank may ask.
        asked: ``run.test_with``.

    Raises:
        UserError: no validation has chosen one.
    """
    if asked != BEST:
        return None
    best = best_checkpoint(run, key=f"run.test_with: {BEST}")
    if is_first_rank():
        say(f"test with {best}")
    return str(best.path)
