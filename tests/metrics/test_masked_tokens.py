"""Scores of hidden tokens: every token weighs the same, whichever text it is of."""

import math

import numpy as np
import pytest

from mmlight.metrics.masked_tokens import SCORES, MaskedTokenEvaluation, masked_token_scores
from mmlight.scores import is_share, known_direction, main_metric


def scored(nats, right, count):
    numbers = np.arange(len(nats))
    return masked_token_scores(
        MaskedTokenEvaluation(
            "val",
            numbers,
            [str(n) for n in numbers],
            np.array(nats, np.float64),
            np.array(right),
            np.array(count),
        )
    )


def test_scores_are_means_over_tokens():
    found = scored([2.0, 10.0, 0.0], [1, 0, 0], [1, 5, 0])
    assert found == {
        "loss": 2.0,
        "perplexity": pytest.approx(math.exp(2.0)),
        "masked_accuracy": pytest.approx(1 / 6),
    }
    assert set(found) == set(SCORES)


def test_a_set_without_hidden_tokens_has_no_scores():
    assert scored([0.0], [0], [0]) == {}


def test_a_model_that_is_far_off_has_a_finite_perplexity():
    assert math.isfinite(scored([1e6], [0], [1])["perplexity"])


def test_names_say_which_way_is_better():
    assert known_direction("val/perplexity") == "min"
    assert known_direction("val/masked_accuracy") == "max" and is_share("val/masked_accuracy")
    assert main_metric(["val/loss", "val/masked_accuracy"], monitor=None) == "val/masked_accuracy"
