"""Scores of masked language models: how often, and how surely, they say what was hidden.

Shapes: S samples of the whole set.
"""

import math
from dataclasses import dataclass

import numpy as np

SCORES = ("loss", "perplexity", "masked_accuracy")


@dataclass(frozen=True)
class MaskedTokenEvaluation:
    """What a model said of the hidden tokens of each sample.

    Attributes:
        stage: `val` or `test`.
        samples_S: int64, ascending, the number of each sample in its data set.
        keys: ``shard-name/sample-key`` of each sample.
        nats_S: float64, -log p of the right tokens, added up.
        right_S: int64, tokens of which the likeliest is right.
        count_S: int64, hidden tokens.
    """

    stage: str
    samples_S: np.ndarray
    keys: list[str]
    nats_S: np.ndarray
    right_S: np.ndarray
    count_S: np.ndarray


def masked_token_scores(evaluation: MaskedTokenEvaluation) -> dict[str, float]:
    """Return ``loss``, ``perplexity`` and ``masked_accuracy`` over all hidden tokens of a set.

    Each token counts the same. Nothing of a set without any.
    """
    count = int(evaluation.count_S.sum())
    if not count:
        return {}
    loss = float(evaluation.nats_S.sum()) / count
    return {
        "loss": loss,
        # Above, it is infinite: JSON and tables of a run hold finite numbers.
        "perplexity": math.exp(min(loss, 700.0)),
        "masked_accuracy": int(evaluation.right_S.sum()) / count,
    }
