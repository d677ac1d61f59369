"""Scores and their intervals, against one draw after another."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, balanced_accuracy_score

from mmlight.metrics.bootstrap import (
    _draw,
    estimate,
    mean_average_precision,
    mean_of,
    mean_per_class,
    ratio_of,
)


def _rows(size, draws=7):
    """Return which rows each draw holds."""
    counts = torch.cat(list(_draw(size, draws=draws, seed=5)))
    assert (counts.sum(1) == size).all()
    return counts, [np.repeat(np.arange(size), row.long().numpy()) for row in counts]


def test_a_mean_is_that_of_the_drawn_rows():
    value = torch.rand(40, dtype=torch.float64)
    counts, rows = _rows(40)
    wanted = [float(value[r].mean()) for r in rows]
    assert mean_of(value)(counts).tolist() == pytest.approx(wanted)


def test_items_are_drawn_with_all_of_their_rows():
    part, whole = torch.rand(40, dtype=torch.float64), torch.randint(1, 5, (40,)).double()
    counts, rows = _rows(40)
    wanted = [float(part[r].sum() / whole[r].sum()) for r in rows]
    assert ratio_of(part, whole)(counts).tolist() == pytest.approx(wanted)


def test_recall_per_class_is_that_of_scikit_learn():
    label = torch.randint(0, 4, (60,))
    said = torch.where(torch.rand(60) < 0.6, label, torch.randint(0, 4, (60,)))
    counts, rows = _rows(60)
    found = mean_per_class(said == label, label, num_classes=5)(counts)
    wanted = [balanced_accuracy_score(label[r], said[r]) for r in rows]
    assert found.tolist() == pytest.approx(wanted)


def test_average_precision_is_that_of_scikit_learn():
    target = (torch.rand(60, 3) < 0.3).long()
    score = (torch.rand(60, 3) * 10).round() / 10 + 0.3 * target  # some are equal
    counts, rows = _rows(60)
    statistic = mean_average_precision(score, target)

    def of(r):
        return np.mean([average_precision_score(target[r, k], score[r, k]) for k in range(3)])

    assert statistic(counts).tolist() == pytest.approx([of(r) for r in rows])
    assert float(statistic(torch.ones(1, 60))) == pytest.approx(of(np.arange(60)))


def test_the_interval_is_that_of_a_binomial():
    hit = torch.arange(1000) < 300
    score = estimate({"accuracy": mean_of(hit)}, size=1000, draws=4000)["accuracy"]
    assert score.value == 0.3
    half = 1.96 * (0.3 * 0.7 / 1000) ** 0.5
    assert score.low == pytest.approx(0.3 - half, abs=2e-3)
    assert score.high == pytest.approx(0.3 + half, abs=2e-3)


def test_a_seed_gives_the_same_interval_again():
    value = {"mean": mean_of(torch.rand(50))}
    first, again = (estimate(value, size=50, seed=1) for _ in range(2))
    assert first == again
    assert first != estimate(value, size=50, seed=2)


def test_the_draws_are_these_on_any_machine():
    counts = torch.cat(list(_draw(5, draws=2, seed=0)))
    assert counts.tolist() == [[0.0, 1.0, 0.0, 2.0, 2.0], [3.0, 1.0, 1.0, 0.0, 0.0]]
