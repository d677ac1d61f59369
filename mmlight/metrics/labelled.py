"""Scores of a labelled evaluation set: accuracy, F1, loss, average precision; by group too.

Shapes: S samples of the whole set, K classes. All scores are over the whole set: a task gathers
its rows from all ranks before it asks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_confusion_matrix,
    multiclass_f1_score,
)

from mmlight.errors import UserError, nearest
from mmlight.metrics.calibration import calibration_error, reliability_bins

TOP_K = 5
ONE_LABEL_SCORES = ("accuracy", "accuracy_at_5", "macro_f1", "calibration_error", "loss")
MULTI_LABEL_SCORES = ("mean_average_precision", "micro_f1", "macro_f1", "exact_match", "loss")


@dataclass(frozen=True)
class LabelledEvaluation:
    """What a classifier said about every sample of a set, and what was right.

    Exactly one of `labels_S` (one class per sample) and `targets_SK` (any number) is given.

    Attributes:
        stage: `val` or `test`.
        samples_S: int64, ascending, the number of each sample in its data set.
        keys: ``shard-name/sample-key`` of each sample.
        logits_SK: float32; a softmax of them gives probabilities, a sigmoid for several labels.
        labels_S: int64 class numbers, -1 where a sample has none.
        targets_SK: 0 or 1 for each class; a row of -1 where a sample has no labels.
        class_names: K names, or none.
        fields: further values of the samples, by name, such as their speakers.
    """

    stage: str
    samples_S: np.ndarray
    keys: list[str]
    logits_SK: np.ndarray
    labels_S: np.ndarray | None = None
    targets_SK: np.ndarray | None = None
    class_names: list[str] = field(default_factory=list)
    fields: dict[str, list[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that rows line up; a mismatch is a bug of the caller, a label too high is not."""
        size, num_classes = self.logits_SK.shape
        assert len(self.keys) == len(self.samples_S) == size
        assert all(len(values) == size for values in self.fields.values())
        assert not self.class_names or len(self.class_names) == num_classes
        assert (self.labels_S is None) != (self.targets_SK is None)
        if self.targets_SK is not None:
            assert self.targets_SK.shape == self.logits_SK.shape
        elif self.labels_S is not None:
            assert len(self.labels_S) == size
            if size and int(self.labels_S.max()) >= num_classes:
                raise UserError(
                    f"a sample has label {int(self.labels_S.max())}, but the model has only "
                    f"{num_classes} classes; labels count from 0"
                )

    @property
    def is_labelled_S(self) -> np.ndarray:
        """Bool, whether each sample has its label."""
        if self.targets_SK is not None:
            return np.asarray((self.targets_SK >= 0).all(1))
        assert self.labels_S is not None
        return np.asarray(self.labels_S >= 0)

    def select(self, rows: np.ndarray) -> "LabelledEvaluation":
        """Return some of the samples.

        Args:
            rows: (S,) bool, or row numbers.
        """
        numbers = np.flatnonzero(rows) if rows.dtype == bool else rows
        return replace(
            self,
            samples_S=self.samples_S[numbers],
            keys=[self.keys[i] for i in numbers],
            logits_SK=self.logits_SK[numbers],
            labels_S=None if self.labels_S is None else self.labels_S[numbers],
            targets_SK=None if self.targets_SK is None else self.targets_SK[numbers],
            fields={name: [values[i] for i in numbers] for name, values in self.fields.items()},
        )


def label_scores(evaluation: LabelledEvaluation) -> dict[str, float]:
    """Return the scores of a set, each over its labelled samples.

    A score over nothing is left out: all of them where no sample is labelled, ``micro_f1`` where no
    class is a label or a prediction, ...

    With one label per sample:

    - ``accuracy``, and ``accuracy_at_5`` with more than 5 classes;
    - ``macro_f1``: the mean F1 of the classes that occur, as a label or as a prediction
      (scikit-learn's default; a class of neither kind says nothing);
    - ``calibration_error``: expected calibration error of the highest probability, 15 bins
      (arXiv 1706.04599, equation 3);
    - ``loss``: mean negative log-likelihood, nats.

    With any number of labels per sample, predicted above a probability of 0.5:

    - ``mean_average_precision``: mean of the classes that are a label of some sample;
    - ``micro_f1``, and ``macro_f1`` as above;
    - ``exact_match``: share of samples whose every class is right;
    - ``loss``: mean binary cross-entropy, nats.

    A row of logits that is not finite is wrong: it counts as a prediction of no class. (torch's
    argmax would call NaN the highest, and a diverged model would be right now and then.)

    Args:
        evaluation: the set.
    """
    known = evaluation.select(evaluation.is_labelled_S)
    if not len(known.keys):
        return {}
    logits_SK = torch.from_numpy(known.logits_SK).double()
    if known.targets_SK is not None:
        return _multi_label(logits_SK, torch.from_numpy(known.targets_SK).long())
    assert known.labels_S is not None
    label_S = torch.from_numpy(known.labels_S).long()
    num_classes = logits_SK.shape[1]
    predicted_S = predictions(logits_SK)
    scores = {"accuracy": float((predicted_S == label_S).double().mean())}
    if num_classes > TOP_K:
        among_S = (logits_SK.topk(TOP_K).indices == label_S[:, None]).any(1)
        scores["accuracy_at_5"] = float((among_S & (predicted_S < num_classes)).double().mean())
    # The class after the last stands for "no class"; then it is left out.
    f1_K = multiclass_f1_score(predicted_S, label_S, num_classes=num_classes + 1, average="none")
    occurs_K = torch.bincount(torch.cat([label_S, predicted_S]), minlength=num_classes + 1) > 0
    scores["macro_f1"] = float(f1_K[:-1][occurs_K[:-1]].double().mean())
    bins = reliability_bins(known.logits_SK, known.labels_S)
    if bins.count_M.sum():
        scores["calibration_error"] = calibration_error(bins)
    scores["loss"] = float(F.cross_entropy(logits_SK, label_S))
    return scores


def group_scores(evaluation: LabelledEvaluation, name: str) -> dict[str, dict[str, float]]:
    """Return `label_scores` and ``num_samples`` of each group of samples, in order of the groups.

    Samples that have no such field, or no label, are in no group.

    Args:
        evaluation: the set.
        name: the field that tells the groups apart, such as `speaker`.

    Raises:
        UserError: the evaluation has no such field.
    """
    if name not in evaluation.fields:
        have = ", ".join(evaluation.fields) or "none"
        raise UserError(
            f"there is no field '{name}' to group by{nearest(name, evaluation.fields)}; the data "
            f"carries: {have}. Name it in data.members.fields, such as {{{name}: 'json:{name}'}}"
        )
    values = evaluation.fields[name]
    is_labelled = evaluation.is_labelled_S.tolist()
    rows: dict[str, list[int]] = {}
    for row, (value, counts) in enumerate(zip(values, is_labelled, strict=True)):
        if counts and value is not None:
            rows.setdefault(group_name(value), []).append(row)
    return {
        group: {
            **label_scores(evaluation.select(np.array(rows[group]))),
            "num_samples": float(len(rows[group])),
        }
        for group in sorted(rows, key=_natural)
    }


def group_name(value: Any) -> str:
    """Return how a field's value is named as a group: `true` for a truth, others as written."""
    return str(value).lower() if isinstance(value, bool) else str(value).strip()


def confusion_matrix(evaluation: LabelledEvaluation) -> np.ndarray:
    """Return (K, K) int64 counts; rows are labels, columns predictions.

    Unlabelled samples are left out, and so are those whose logits are not finite.

    Args:
        evaluation: a set with one label per sample.
    """
    assert evaluation.labels_S is not None, "several labels have no confusion matrix"
    known = evaluation.select(evaluation.is_labelled_S)
    assert known.labels_S is not None
    logits_SK = torch.from_numpy(known.logits_SK)
    counts = multiclass_confusion_matrix(
        predictions(logits_SK),
        torch.from_numpy(known.labels_S).long(),
        num_classes=logits_SK.shape[1] + 1,
    )
    return counts[:-1, :-1].numpy()


def predictions(logits_SK: Tensor) -> Tensor:
    """Return (S,) int64, the class with the highest logit; K where a row is not finite."""
    best_S = logits_SK.argmax(1)
    return torch.where(logits_SK.isfinite().all(1), best_S, logits_SK.shape[1])


def _multi_label(logits_SK: Tensor, target_SK: Tensor) -> dict[str, float]:
    broken_S = ~logits_SK.isfinite().all(1)
    chance_SK = logits_SK.sigmoid()
    chance_SK[broken_S] = 0.0
    predicted_SK = (chance_SK > 0.5).long()
    right_K = (predicted_SK * target_SK).sum(0)
    given_K = (predicted_SK + target_SK).sum(0)
    scores = {}
    wanted = (target_SK > 0).any(0).nonzero()[:, 0].tolist()
    if wanted:
        each = [average_precision(chance_SK[:, k], target_SK[:, k]) for k in wanted]
        scores["mean_average_precision"] = sum(each) / len(each)
    if int(given_K.sum()):
        scores["micro_f1"] = float(2 * right_K.sum() / given_K.sum())
        scores["macro_f1"] = float((2 * right_K / given_K)[given_K > 0].double().mean())
    exact_S = (predicted_SK == target_SK).all(1) & ~broken_S
    scores["exact_match"] = float(exact_S.double().mean())
    scores["loss"] = float(F.binary_cross_entropy_with_logits(logits_SK, target_SK.double()))
    return scores


def average_precision(score_S: Tensor, target_S: Tensor) -> float:
    """Return the average precision of one class: scikit-learn's ``average_precision_score``.

    Args:
        score_S: the higher, the more likely of the class; equal ones are taken together.
        target_S: 1 for samples of the class, of which there is one at least, else 0.
    """
    sorted_S, order_S = score_S.sort(descending=True)
    right_S = target_S[order_S].cumsum(0).double()
    ends_S = F.pad(sorted_S[1:] != sorted_S[:-1], (0, 1), value=True)
    place_S = torch.arange(1, len(score_S) + 1, device=score_S.device)
    precision_T, found_T = (right_S / place_S)[ends_S], right_S[ends_S]
    return float((precision_T * found_T.diff(prepend=found_T.new_zeros(1))).sum() / right_S[-1])


def _natural(text: str) -> tuple[Sequence[Any], ...]:
    """Order 2 before 10, and numbers before words."""
    return ((0, int(text)),) if text.isdecimal() else ((1, text),)
