"""Scores of predicted numbers.

Shapes: S samples of the whole set, K numbers of each.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.regression import (
    mean_absolute_error,
    mean_squared_error,
    r2_score,
    spearman_corrcoef,
)

SCORES = ("mae", "rmse", "r2", "spearman")


@dataclass(frozen=True)
class NumberEvaluation:
    """What was predicted for every sample of a set whose target is known.

    Attributes:
        stage: `val` or `test`.
        samples_S: int64, ascending, the number of each sample in its data set.
        keys: ``shard-name/sample-key`` of each sample.
        value_SK: float64, what the model says.
        target_SK: float64, what is right.
        names: of the K numbers.
        fields: further values of the samples, by name.
    """

    stage: str
    samples_S: np.ndarray
    keys: list[str]
    value_SK: np.ndarray
    target_SK: np.ndarray
    names: list[str]
    fields: dict[str, list[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that rows line up; a mismatch is a bug of the caller."""
        assert len(self.keys) == len(self.samples_S) == len(self.value_SK) == len(self.target_SK)
        assert self.value_SK.shape == self.target_SK.shape
        assert self.value_SK.shape[1] == len(self.names)


def number_scores(evaluation: NumberEvaluation) -> dict[str, float]:
    """Return ``mae``, ``rmse``, ``r2`` and ``spearman`` of a set; nothing of an empty one.

    Of several numbers these are the means over them, and each has its own, as ``x/mae``. There is
    no ``r2`` of targets that are all alike, and no rank correlation where either side is.
    """
    if not evaluation.keys:
        return {}
    values_KS, targets_KS = (
        torch.from_numpy(np.ascontiguousarray(numbers_SK.T))
        for numbers_SK in (evaluation.value_SK, evaluation.target_SK)
    )
    of_each = [_scores(*pair) for pair in zip(values_KS, targets_KS, strict=True)]
    if len(of_each) == 1:
        return of_each[0]
    shared = [score for score in SCORES if all(score in scores for scores in of_each)]
    found = {score: sum(scores[score] for scores in of_each) / len(of_each) for score in shared}
    for name, scores in zip(evaluation.names, of_each, strict=True):
        found |= {f"{name}/{score}": value for score, value in scores.items()}
    return found


def _scores(value_S: Tensor, target_S: Tensor) -> dict[str, float]:
    scores = {
        "mae": float(mean_absolute_error(value_S, target_S)),
        "rmse": float(mean_squared_error(value_S, target_S, squared=False)),
    }
    if bool((target_S != target_S[0]).any()):
        scores["r2"] = float(r2_score(value_S, target_S))
        if bool((value_S != value_S[0]).any()):
            scores["spearman"] = float(spearman_corrcoef(value_S, target_S))
    return scores
