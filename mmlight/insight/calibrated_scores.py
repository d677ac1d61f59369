"""Scores for a report of robustness: before and after calibration, by group."""

from collections import Counter
from typing import Any

import numpy as np

from mmlight.errors import UserError
from mmlight.metrics.calibration import (
    calibration_error,
    negative_log_likelihood,
    reliability_bins,
)
from mmlight.metrics.labelled import LabelledEvaluation, group_name, group_scores
from mmlight.runs.plan.robustness_report import SCALED, GroupScores


def has_probabilities(evaluation: Any) -> bool:
    """Return whether an evaluation is of one label per sample, so that it can be calibrated."""
    return isinstance(evaluation, LabelledEvaluation) and evaluation.labels_S is not None


def scaled_scores(evaluation: LabelledEvaluation, temperature: float) -> dict[str, float]:
    """Return what a temperature changes: the calibration error and the loss."""
    assert evaluation.labels_S is not None
    logits_SK, labels_S = evaluation.logits_SK, evaluation.labels_S
    return {
        f"calibration_error{SCALED}": calibration_error(
            reliability_bins(logits_SK, labels_S, temperature=temperature)
        ),
        f"loss{SCALED}": negative_log_likelihood(logits_SK, labels_S, temperature=temperature),
    }


def chance_accuracy(evaluation: LabelledEvaluation) -> float:
    """Return the accuracy of always answering the commonest class."""
    assert evaluation.labels_S is not None
    known = evaluation.labels_S[evaluation.labels_S >= 0]
    return float(np.bincount(known).max() / len(known)) if len(known) else float("nan")


def scores_by_group(
    evaluation: Any, name: str, *, temperature: float | None, trained: Counter[str] | None
) -> list[GroupScores]:
    """Return the scores of each group.

    Args:
        evaluation: of the clean data.
        name: the field that tells the groups apart.
        temperature: where it was fitted, it is applied too.
        trained: training samples by group, None where that is not known.

    Raises:
        UserError: the evaluation has no such field, or is not of labels.
    """
    if not isinstance(evaluation, LabelledEvaluation):
        raise UserError("--group: only classification has scores by group")
    found = []
    for group, scores in group_scores(evaluation, name).items():
        rows = np.array([group_name(v) == group for v in evaluation.fields[name]])
        if temperature is not None:
            scores = scores | scaled_scores(evaluation.select(rows), temperature)
        found.append(
            GroupScores(
                name=group,
                num_samples=int(scores.pop("num_samples")),
                scores=scores,
                is_trained=None if trained is None else group in trained,
            )
        )
    if not found:
        raise UserError(f"--group: no labelled sample has a value of '{name}'")
    return found
