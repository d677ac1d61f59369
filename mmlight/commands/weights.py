"""What commands that make weights out of weights share: scoring them on an experiment's data."""

import argparse
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmlight.batch import Batch
from mmlight.errors import UserError
from mmlight.experiment.build import assemble
from mmlight.published.read import read_model
from mmlight.runs.show.grid import Column, Grid
from mmlight.saved.checkpoint import Saved
from mmlight.saved.rebuild import check_description
from mmlight.scores import chosen_direction
from mmlight.tasks.load import build_task
from mmlight.tasks.task import Task
from mmlight.terminal import say
from mmlight.trainer.internals import AnyBatchNorm

Tensors = dict[str, Tensor]
Scores = dict[str, dict[str, float]]  # by stage: val, test, and second for other data


class Scoring:
    """Data and trainer of an experiment, on which weights of a model are scored.

    The model is that of the checkpoints; of the experiment's settings those of `data`, `trainer`,
    `run` and `zero_shot` count.

    Args:
        given: what ``mmlight test`` would take.
        checkpoint: whose run, or whose model, it is about.
        kind: begins the id of the run's folder.
    """

    def __init__(self, given: Sequence[str], *, checkpoint: Path, kind: str) -> None:
        self._experiment = assemble("test", [*given, f"--ckpt_path={checkpoint}"])
        zero_shot = self._experiment.settings["zero_shot"]
        self._experiment.begin(
            kind=kind,
            # What is logged of one test is not another's.
            callbacks=[] if zero_shot is None else [zero_shot],
            changes={"enable_progress_bar": False, "logger": False},
        )
        self.work = self._experiment.work
        self.data = self._experiment.data
        self.trainer = self._experiment.trainer
        self.folder = self._experiment.folder
        self.stages: list[str] = [
            name for name in ("val", "test") if name in self.data.split_names()
        ]

    def tell(self, what: str | Grid) -> None:
        """Print on rank 0."""
        if self.trainer.is_global_zero:
            what.print() if isinstance(what, Grid) else say(what)

    def model(self, saved: Saved, *, verb: str, num_batches: int) -> Task:
        """Return the model that is to be scored, where the experiment's data suits it.

        Args:
            saved: the model.
            verb: for messages.
            num_batches: of training data, for statistics of batch norms.

        Raises:
            UserError: the data has other classes, nothing to score on, or no batches for statistics
                that are asked for; or the model has no such statistics.
        """
        task = build_task(saved)
        ours = (task.preprocessing or {}).get("class_names") or []
        theirs = self.data.preprocessing().get("class_names") or []
        if list(ours) != list(theirs):
            raise UserError(
                f"data.class_names are {theirs or 'none'}, but the checkpoint's are "
                f"{ours or 'none'}; give the config it was trained with"
            )
        if num_batches < 0:
            raise UserError(f"--recompute-batch-norm {num_batches}: must be 0 or more")
        if num_batches and not _batch_norms(task):
            raise UserError("--recompute-batch-norm has no effect: the model has no batch norm")
        if num_batches and "train" not in self.data.split_names():
            raise UserError("--recompute-batch-norm needs data.train, which is not set")
        if not self.stages:
            raise UserError(f"{verb} needs data.val or data.test")
        return task

    def score(self, task: Task, stage: str, *, data: Any = None) -> dict[str, float]:
        """Return the scores of a model on val or test, named without the stage.

        Every rank calls it.

        Args:
            task: the model.
            stage: ``val`` or ``test``.
            data: other data than the experiment's.
        """
        run = self.trainer.validate if stage == "val" else self.trainer.test
        run(task, datamodule=data if data is not None else self.data, verbose=False)
        prefix = f"{stage}/"
        return {
            name.removeprefix(prefix): float(value)
            for name, value in self.trainer.callback_metrics.items()
            if name.startswith(prefix)
        }

    def put(self, task: Task, tensors: Tensors, *, num_batches: int) -> None:
        """Give a model weights; then new statistics of its batch norms, where asked for.

        Args:
            task: the model.
            tensors: its new weights.
            num_batches: of training data, for statistics; 0 leaves those in `tensors`.
        """
        task.load_state_dict(tensors)
        if num_batches:
            data = self.data.with_corruptions([])
            data.setup("fit")
            recompute_batch_norm(task, islice(data.train_dataloader(), num_batches))
            data.teardown("fit")

    def save(self, task: Task, path: Path) -> None:
        """Write a checkpoint that every verb takes; it has no state of an optimiser."""
        self.trainer.strategy.connect(task)
        self.trainer.save_checkpoint(path, weights_only=True)


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str]
) -> tuple[argparse.Namespace, list[str]]:
    """Return a verb's own options, those that all these verbs have, and the other arguments.

    Raises:
        UserError: no config, or `--ckpt_path`.
    """
    parser.add_argument(
        "--metric", help="what to choose by, without its stage; default: accuracy, f1, wer, ap"
    )
    parser.add_argument(
        "--recompute-batch-norm",
        type=int,
        default=0,
        metavar="N",
        help="take the statistics of batch norms from N batches of training, anew for all weights "
        "that are scored; by default those of the models are averaged like weights",
    )
    options, rest = parser.parse_known_args(list(argv))
    if any(argument.partition("=")[0] == "--ckpt_path" for argument in rest):
        raise UserError(f"{parser.prog} takes no --ckpt_path; it names its checkpoints itself")
    if not any(argument.partition("=")[0] in ("-c", "--config") for argument in rest):
        raise UserError(f"{parser.prog} needs -c CONFIG, which says what to score on")
    return options, rest


def table(metric: str, stages: Iterable[str], rows: Sequence[Sequence[str]], *heads: str) -> Grid:
    """Return rows of weights: a cell below each head, and a score below each stage."""
    scores = (Column(f"{stage} {metric}", align="right") for stage in stages)
    return Grid((*(Column(head, wraps=True) for head in heads), *scores), tuple(map(tuple, rows)))


def norms_source(task: Task, num_batches: int, *, by_default: str) -> str | None:
    """Return where statistics of batch norms come from; None for a model without any."""
    line = f"recomputed on {num_batches} batches" if num_batches else by_default
    return line if _batch_norms(task) else None


def sign_of(metric: str) -> int:
    """Return 1 where more of a validation's metric is better, else -1."""
    way = chosen_direction(f"val/{metric}", remedy="choose by another, with --metric")
    return 1 if way == "max" else -1


def read_plain(given: str | Path, *, key: str) -> tuple[Path, Saved]:
    """Read a model, its adapters merged into its weights.

    Args:
        given: as for `mmlight.published.read.read_model`.
        key: the argument, for messages.

    Raises:
        UserError: it cannot be read, or names what a checkpoint must not.
    """
    path, saved = read_model(given, key=key)
    check_description(saved.description, base=Task)
    tuning = saved.description["init_args"].get("tuning") or {}
    if tuning.get("method") not in ("lora", "dora"):
        return path, saved
    task = build_task(saved)
    task.merge_adapters()
    return path, Saved(task.rebuild_description(), task.preprocessing, task.state_dict())


def _batch_norms(task: nn.Module) -> list[Any]:
    """Return what keeps statistics of batches."""
    return [m for m in task.modules() if isinstance(m, AnyBatchNorm) and m.track_running_stats]


@torch.no_grad()
def recompute_batch_norm(task: Task, batches: Iterable[Batch]) -> None:
    """Replace the statistics of batch norms by the mean over batches, all else in evaluation mode.

    Args:
        task: changed in place.
        batches: batches of training.
    """
    norms = _batch_norms(task)
    before = [norm.momentum for norm in norms]
    task.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean of all batches
        norm.train()
    for batch in batches:
        task.predict_step(batch.to(task.device), 0)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    task.eval()
