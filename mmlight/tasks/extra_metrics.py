"""Scores of torchmetrics that a configuration adds to a task's own."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from mmlight.errors import UserError
from mmlight.scores import Direction


class ExtraMetrics:
    """The metrics of a task, which get the rows of the whole set on every rank.

    They are no modules of the task: nothing of them is in a checkpoint.

    Attributes:
        names: of all their scores, once they were checked.

    Args:
        given: what makes each, by the name of its score.

    Raises:
        UserError: settings that a metric does not take.
    """

    def __init__(self, given: Mapping[str, Callable[[], Metric]]) -> None:
        self._metrics = {name: _made(make, name=name) for name, make in given.items()}
        self.names: set[str] = set()

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._metrics)

    def check(self, example: Callable[[], tuple[Any, Any] | None], *, task: str) -> None:
        """Refuse, before anything is trained, metrics that cannot take what the task gives.

        Args:
            example: gives a few predictions and targets of the task's kind; None where it has none.
            task: its name.

        Raises:
            UserError: it says which one, and why.
        """
        if self.names or not self._metrics:
            return
        if (answers := example()) is None:
            raise UserError(
                f"model.metrics: {task} has no predictions and targets that a metric could take; "
                "leave it out"
            )
        self.names = set(self.scores(answers))

    def scores(self, answers: tuple[Any, Any] | None) -> dict[str, float]:
        """Return each metric's value; one that returns several by name has ``name/part``.

        Args:
            answers: predictions and targets, as its `update` takes them.

        Raises:
            UserError: a metric does not take them, or does not return numbers.
        """
        values: dict[str, float] = {}
        for name, metric in self._metrics.items():
            assert answers is not None
            metric.reset()
            try:
                metric.update(*answers)
                found = metric.compute()
            except Exception as error:  # each class checks what it gets in its own way
                raise UserError(
                    f"model.metrics.{name}: {type(metric).__name__} does not take "
                    f"{_shape(answers[0])} and {_shape(answers[1])}: {_said(error)}"
                ) from error
            parts = found.items() if isinstance(found, Mapping) else [("", found)]
            single = {part: float(v) for part, v in parts if torch.as_tensor(v).numel() == 1}
            if not single:
                raise UserError(
                    f"model.metrics.{name}: {type(metric).__name__} returns several numbers; "
                    "average them (such as average: macro)"
                )
            values |= {f"{name}/{p}" if p else name: value for p, value in single.items()}
            metric.reset()
        return values

    def directions(self) -> dict[str, Direction]:
        """Return which way each metric is better, as far as its class says it."""
        known = {name: metric.higher_is_better for name, metric in self._metrics.items()}
        return {name: "max" if up else "min" for name, up in known.items() if up is not None}


def _made(make: Callable[[], Metric], *, name: str) -> Metric:
    try:
        metric = make()
    except Exception as error:  # each class checks its settings in its own way
        raise UserError(f"model.metrics.{name}: {_said(error)}") from error
    for part in metric.modules():
        if isinstance(part, Metric):
            part.sync_on_compute = False  # every rank gives it the whole set
    return metric


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _shape(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return f"a list of {type(value[0]).__name__}" if value else "an empty list"
