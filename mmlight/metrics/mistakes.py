"""Which samples of a labelled set a classifier got wrong, and how badly.

Shapes: S samples of the whole set, K classes.
"""

from dataclasses import dataclass

import numpy as np

from mmlight.metrics.labelled import LabelledEvaluation


@dataclass(frozen=True)
class Mistake:
    """A sample that a classifier got wrong.

    Attributes:
        number: the sample's number in its data set.
        key: ``shard-name/sample-key``.
        label: the true classes, joined by commas.
        prediction: the predicted ones.
        confidence: probability of the predicted class; with several labels, how far the worst
            class' probability is from the truth.
        label_probability: probability of the true class; with several labels, the lowest of them.
        loss: negative log-likelihood in nats; with several labels, the mean over classes.
        loss_rank: place among all mistakes by loss, from 1.
        confidence_rank: place by confidence.
    """

    number: int
    key: str
    label: str
    prediction: str
    confidence: float
    label_probability: float
    loss: float
    loss_rank: int
    confidence_rank: int


@dataclass(frozen=True)
class Mistakes:
    """The mistakes worth looking at.

    Attributes:
        shown: those of highest loss and those of highest confidence, by loss.
        num_wrong: number of all mistakes.
        num_labelled: number of labelled samples.
    """

    shown: list[Mistake]
    num_wrong: int
    num_labelled: int


def find_mistakes(evaluation: LabelledEvaluation, *, most: int) -> Mistakes:
    """Return the mistakes of highest loss, and those of highest confidence.

    Samples whose logits are not finite are mistakes of infinite loss.

    Args:
        evaluation: a labelled set.
        most: how many of each kind.
    """
    known = evaluation.select(evaluation.is_labelled_S)
    size, num_classes = known.logits_SK.shape
    names = known.class_names or [str(k) for k in range(num_classes)]
    logits_SK = known.logits_SK.astype(np.float64)
    broken_S = np.asarray(~np.isfinite(logits_SK).all(1))
    logits_SK[broken_S] = 0
    chance_SK: np.ndarray
    target_SK: np.ndarray
    predicted_SK: np.ndarray
    if known.labels_S is not None:
        target_SK = np.eye(num_classes, dtype=bool)[known.labels_S]
        low_SK = logits_SK - logits_SK.max(1, keepdims=True)
        log_SK = low_SK - np.log(np.exp(low_SK).sum(1, keepdims=True))
        chance_SK = np.exp(log_SK)
        loss_S = -log_SK[np.arange(size), known.labels_S]
        predicted_SK = np.eye(num_classes, dtype=bool)[logits_SK.argmax(1)]
        confidence_S = chance_SK.max(1, initial=0.0)
    else:
        assert known.targets_SK is not None
        target_SK = known.targets_SK > 0
        chance_SK = 1 / (1 + np.exp(-logits_SK))
        loss_S = np.logaddexp(0, np.where(target_SK, -logits_SK, logits_SK)).mean(1)
        predicted_SK = chance_SK > 0.5
        confidence_S = np.abs(chance_SK - target_SK).max(1, initial=0.0)
    loss_S = np.where(broken_S, np.inf, loss_S)
    wrong_S = np.flatnonzero((predicted_SK != target_SK).any(1) | broken_S)
    by_loss = wrong_S[np.argsort(-loss_S[wrong_S], kind="stable")]
    sure_S = np.where(broken_S, 0.0, confidence_S)
    by_confidence = wrong_S[np.argsort(-sure_S[wrong_S], kind="stable")]
    loss_rank = {int(row): rank for rank, row in enumerate(by_loss, 1)}
    confidence_rank = {int(row): rank for rank, row in enumerate(by_confidence, 1)}
    chosen = {*by_loss[:most].tolist(), *by_confidence[:most].tolist()}

    def listed(marks_K: np.ndarray) -> str:
        return ", ".join(names[k] for k in np.flatnonzero(marks_K)) or "none"

    shown = [
        Mistake(
            number=int(known.samples_S[row]),
            key=known.keys[row],
            label=listed(target_SK[row]),
            prediction="not finite" if broken_S[row] else listed(predicted_SK[row]),
            confidence=float(sure_S[row]),
            label_probability=float(np.min(chance_SK[row][target_SK[row]], initial=1.0)),
            loss=float(loss_S[row]),
            loss_rank=loss_rank[row],
            confidence_rank=confidence_rank[row],
        )
        for row in by_loss.tolist()
        if row in chosen
    ]
    return Mistakes(shown, len(wrong_S), size)
