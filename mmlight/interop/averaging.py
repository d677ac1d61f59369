"""Averages of weights: between a pretrained and a fine-tuned model, and of several runs.

WiSE-FT is arXiv 2109.01903 (equation 1), model soups are arXiv 2203.05482.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mmlight.batch import Batch
from mmlight.errors import UserError
from mmlight.saved.checkpoint import Saved, different_tensors, read_saved
from mmlight.saved.rebuild import check_description
from mmlight.tasks.task import Task, build_task

Tensors = dict[str, Tensor]
_BATCH_NORM = nn.modules.batchnorm._BatchNorm


def read_plain(path: Path) -> Saved:
    """Read a model, its adapters merged into its weights.

    Raises:
        UserError: it cannot be read, or names what a checkpoint must not.
    """
    saved = read_saved(path)
    check_description(saved.description, base=Task)
    tuning = saved.description["init_args"].get("tuning") or {}
    if tuning.get("method") not in ("lora", "dora"):
        return saved
    task = build_task(saved)
    task.merge_adapters()
    return Saved(task.rebuild_description(), task.preprocessing, task.state_dict())


@dataclass(frozen=True)
class Shared:
    """What a pretrained and a fine-tuned model have in common.

    Attributes:
        names: floating tensors of equal name and shape; these are interpolated.
        kept: the fine-tuned model's other tensors (its head, counters), which stay.
        left: the pretrained model's other tensors, which are not used.
    """

    names: list[str]
    kept: list[str]
    left: list[str]


def shared_tensors(pretrained: Tensors, finetuned: Tensors) -> Shared:
    """Return which tensors can be interpolated.

    Raises:
        UserError: none, or one whose shape differs.
    """
    for name in finetuned.keys() & pretrained.keys():
        ours, theirs = tuple(finetuned[name].shape), tuple(pretrained[name].shape)
        if ours != theirs and not name.startswith("head."):
            raise UserError(f"wise-ft: {name} is {ours} fine-tuned, {theirs} pretrained")
    names = [
        name
        for name, tensor in finetuned.items()
        if tensor.is_floating_point()
        and name in pretrained
        and pretrained[name].shape == tensor.shape
    ]
    if not names:
        raise UserError("wise-ft: the two models have no tensor in common")
    taken = set(names)
    return Shared(
        names,
        [name for name in finetuned if name not in taken],
        [name for name in pretrained if name not in taken],
    )


def interpolate(
    pretrained: Tensors, finetuned: Tensors, *, shared: Shared, alpha: float
) -> Tensors:
    """Return ``(1 - alpha) pretrained + alpha finetuned`` of what is shared, and the rest.

    Args:
        pretrained: tensors at alpha 0.
        finetuned: tensors at alpha 1.
        shared: as `shared_tensors` returned it.
        alpha: from 0 to 1.
    """
    mixed = dict(finetuned)
    for name in shared.names:
        first, second = pretrained[name].double(), finetuned[name].double()
        # This form is exact at both ends.
        mixed[name] = ((1 - alpha) * first + alpha * second).to(finetuned[name].dtype)
    return mixed


def check_ingredients(saved: Sequence[Saved], names: Sequence[str]) -> None:
    """Refuse models that cannot be averaged.

    Args:
        saved: the models.
        names: what the user calls them.

    Raises:
        UserError: fewer than two, another task, other tensors or other classes.
    """
    if len(saved) < 2:
        raise UserError("soup: name two checkpoints or more")
    first = saved[0]
    for other, name in zip(saved[1:], names[1:], strict=True):
        kind, own = other.description["class_path"], first.description["class_path"]
        if kind != own:
            raise UserError(f"soup: {name} is a {kind}, {names[0]} a {own}")
        if problem := different_tensors(other.tensors, first.tensors):
            raise UserError(f"soup: {name} is another model than {names[0]}: {problem}")
        for key, value in (first.preprocessing or {}).items():
            theirs = (other.preprocessing or {}).get(key)
            if theirs != value:
                raise UserError(
                    f"soup: {name} was trained with other data.{key} than {names[0]}; their "
                    "inputs or classes do not mean the same"
                )


class Average:
    """The mean of tensors, in float64; integer tensors are the first model's."""

    def __init__(self) -> None:
        self._sum: Tensors = {}
        self._first: Tensors = {}
        self.count = 0

    def add(self, tensors: Tensors) -> None:
        """Take one more model into the mean."""
        if not self.count:
            self._first = dict(tensors)
        for name, tensor in tensors.items():
            if tensor.is_floating_point():
                before = self._sum.get(name)
                wide = tensor.double()
                self._sum[name] = wide if before is None else before + wide
        self.count += 1

    def remove(self, tensors: Tensors) -> None:
        """Take a model out again."""
        for name in self._sum:
            self._sum[name] = self._sum[name] - tensors[name].double()
        self.count -= 1

    def tensors(self) -> Tensors:
        """Return the mean, in the dtypes of the first model."""
        mean = dict(self._first)
        for name, total in self._sum.items():
            mean[name] = (total / self.count).to(mean[name].dtype)
        return mean


def has_batch_norm(task: nn.Module) -> bool:
    """Return whether a model keeps statistics of batches."""
    return any(isinstance(m, _BATCH_NORM) and m.track_running_stats for m in task.modules())


@torch.no_grad()
def recompute_batch_norm(task: Task, batches: Iterable[Batch]) -> None:
    """Replace the statistics of batch norms by the mean over batches, all else in evaluation mode.

    Args:
        task: changed in place.
        batches: batches of training.
    """
    norms = [m for m in task.modules() if isinstance(m, _BATCH_NORM) and m.track_running_stats]
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
