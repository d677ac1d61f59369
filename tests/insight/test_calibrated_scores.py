"""Scores of a robustness report, from evaluations."""

from collections import Counter

import numpy as np
import pytest

from mmlight.errors import UserError
from mmlight.insight.calibrated_scores import (
    chance_accuracy,
    has_probabilities,
    scaled_scores,
    scores_by_group,
)
from mmlight.metrics.calibration import fit_temperature
from mmlight.metrics.labelled import LabelledEvaluation, label_scores


def evaluation(size=400, *, several=False, factor=3.0):
    draws = np.random.default_rng(0)
    true = draws.normal(size=(size, 4)) * 2
    chance = np.exp(true) / np.exp(true).sum(1, keepdims=True)
    labels = np.array([draws.choice(4, p=p) for p in chance])
    labels[:5] = -1
    return LabelledEvaluation(
        stage="test",
        samples_S=np.arange(size),
        keys=[str(i) for i in range(size)],
        logits_SK=(factor * true).astype(np.float32),
        labels_S=None if several else labels,
        targets_SK=np.eye(4, dtype=np.int64)[labels] if several else None,
        fields={"speaker": [("ann", "bob", True, None)[i % 4] for i in range(size)]},
    )


def test_temperature_improves_calibration_and_changes_no_accuracy():
    given = evaluation()
    temperature = fit_temperature(given.logits_SK, given.labels_S)
    assert temperature == pytest.approx(3.0, rel=0.2)
    before, after = label_scores(given), scaled_scores(given, temperature)
    assert after["calibration_error_scaled"] < before["calibration_error"]
    assert after["loss_scaled"] < before["loss"]
    same = scaled_scores(given, 1.0)
    assert same["calibration_error_scaled"] == pytest.approx(before["calibration_error"])
    assert same["loss_scaled"] == pytest.approx(before["loss"])


def test_chance_is_the_share_of_the_commonest_label():
    given = evaluation()
    known = given.labels_S[5:]
    assert chance_accuracy(given) == np.bincount(known).max() / 395


def test_only_one_label_per_sample_can_be_calibrated():
    assert has_probabilities(evaluation())
    assert not has_probabilities(evaluation(several=True))
    assert not has_probabilities(object())


def test_groups_are_scored_and_told_apart_by_whether_they_were_trained():
    groups = scores_by_group(
        evaluation(), "speaker", temperature=3.0, trained=Counter(["ann", "true"])
    )
    assert [(g.name, g.is_trained) for g in groups] == [
        ("ann", True),
        ("bob", False),
        ("true", True),
    ]
    assert groups[0].num_samples == 98  # 100, two of which have no label
    rows = np.arange(400) % 4 == 0
    alone = evaluation().select(rows)
    assert groups[0].scores["accuracy"] == label_scores(alone)["accuracy"]
    assert groups[0].scores["loss_scaled"] == scaled_scores(alone, 3.0)["loss_scaled"]
    unknown = scores_by_group(evaluation(), "speaker", temperature=None, trained=None)
    assert [g.is_trained for g in unknown] == [None] * 3


def test_groups_need_labels_and_a_field():
    with pytest.raises(UserError, match="only classification"):
        scores_by_group(object(), "speaker", temperature=None, trained=None)
    with pytest.raises(UserError, match="no field 'fold'"):
        scores_by_group(evaluation(), "fold", temperature=None, trained=None)
