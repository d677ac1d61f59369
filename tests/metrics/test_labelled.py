"""Scores of labelled sets, against scikit-learn and loops in float64."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from mmlight.errors import UserError
from mmlight.metrics.labelled import (
    MULTI_LABEL_SCORES,
    ONE_LABEL_SCORES,
    LabelledEvaluation,
    average_precision,
    confusion_matrix,
    group_scores,
    label_scores,
)


def evaluation(size=200, num_classes=8, *, seed=0, **changes):
    draws = np.random.default_rng(seed)
    labels = draws.integers(0, max(num_classes - 1, 1), size)  # the last class never occurs
    logits = draws.normal(size=(size, num_classes)) + 2 * np.eye(num_classes)[labels]
    given = dict(
        stage="val",
        samples_S=np.arange(size),
        keys=[f"0/{i}" for i in range(size)],
        logits_SK=logits.astype(np.float32),
        labels_S=labels,
        fields={"speaker": [i % 3 or None for i in range(size)]},
    )
    return LabelledEvaluation(**(given | changes))


def multi_label(size=120, num_classes=6):
    draws = np.random.default_rng(1)
    targets = (draws.random((size, num_classes)) < 0.3).astype(np.int64)
    targets[:, -1] = 0  # never a label
    logits = draws.normal(size=(size, num_classes)) + 1.5 * (targets - 0.5)
    logits[:, -1] = -5
    return evaluation(
        size, num_classes, labels_S=None, targets_SK=targets, logits_SK=logits.astype(np.float32)
    )


def softmax(logits):
    e = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_scores_of_one_label_equal_scikit_learns():
    given = evaluation()
    scores = label_scores(given)
    predicted = given.logits_SK.argmax(1)
    assert scores["accuracy"] == pytest.approx(sk.accuracy_score(given.labels_S, predicted))
    assert scores["accuracy_at_5"] == pytest.approx(
        sk.top_k_accuracy_score(given.labels_S, given.logits_SK, k=5, labels=np.arange(8))
    )
    assert scores["macro_f1"] == pytest.approx(
        sk.f1_score(given.labels_S, predicted, average="macro")
    )
    assert scores["loss"] == pytest.approx(
        sk.log_loss(given.labels_S, softmax(given.logits_SK), labels=np.arange(8))
    )
    assert 0.3 < scores["accuracy"] < scores["accuracy_at_5"] < 1


def test_accuracy_at_5_needs_more_than_five_classes():
    assert "accuracy_at_5" not in label_scores(evaluation(num_classes=5))


def test_class_that_does_not_occur_is_left_out_of_macro_f1_and_one_only_predicted_counts():
    labels = np.array([0, 0, 1, 1])
    logits = 5 * np.eye(4, dtype=np.float32)[[0, 0, 1, 2]]
    scores = label_scores(evaluation(4, 4, labels_S=labels, logits_SK=logits, fields={}))
    assert scores["macro_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_unlabelled_samples_are_left_out():
    given = evaluation()
    some = given.labels_S.copy()
    some[::3] = -1
    kept = label_scores(given.select(some >= 0))
    assert label_scores(evaluation(labels_S=some)) == kept
    assert confusion_matrix(evaluation(labels_S=some)).sum() == (some >= 0).sum()
    assert label_scores(evaluation(labels_S=np.full(200, -1))) == {}


def test_rows_that_are_not_finite_are_wrong():
    logits = np.full((4, 2), np.nan, np.float32)
    labels = np.zeros(4, np.int64)
    scores = label_scores(evaluation(4, 2, logits_SK=logits, labels_S=labels, fields={}))
    assert (scores["accuracy"], scores["macro_f1"]) == (0, 0)
    assert np.isnan(scores["loss"])
    assert (
        confusion_matrix(evaluation(4, 2, logits_SK=logits, labels_S=labels, fields={})).sum() == 0
    )


def test_confusion_matrix_has_labels_as_rows():
    given = evaluation()
    expected = sk.confusion_matrix(given.labels_S, given.logits_SK.argmax(1), labels=np.arange(8))
    np.testing.assert_array_equal(confusion_matrix(given), expected)


def test_scores_of_several_labels_equal_scikit_learns():
    given = multi_label()
    scores = label_scores(given)
    predicted = given.logits_SK > 0
    occurs = slice(0, 5)
    assert scores["micro_f1"] == pytest.approx(
        sk.f1_score(given.targets_SK, predicted, average="micro")
    )
    assert scores["macro_f1"] == pytest.approx(
        sk.f1_score(given.targets_SK[:, occurs], predicted[:, occurs], average="macro")
    )
    assert scores["exact_match"] == pytest.approx(sk.accuracy_score(given.targets_SK, predicted))
    assert scores["mean_average_precision"] == pytest.approx(
        sk.average_precision_score(given.targets_SK[:, occurs], given.logits_SK[:, occurs])
    )
    chance = 1 / (1 + np.exp(-given.logits_SK.astype(np.float64)))
    likely = np.where(given.targets_SK == 1, chance, 1 - chance)
    assert scores["loss"] == pytest.approx(-np.log(likely).mean())


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_with_ties_equals_scikit_learns(seed):
    draws = np.random.default_rng(seed)
    score = draws.integers(0, 5, 40) / 4
    target = (draws.random(40) < 0.4).astype(np.int64)
    ours = average_precision(torch.from_numpy(score), torch.from_numpy(target))
    assert ours == pytest.approx(sk.average_precision_score(target, score), abs=1e-12)


def test_one_class_that_occurs_or_one_class_at_all_is_scored():
    given = multi_label()
    one = np.zeros_like(given.targets_SK)
    one[:, 2] = given.targets_SK[:, 2]
    rows = dict(labels_S=None, fields={})
    scores = label_scores(evaluation(120, 6, targets_SK=one, logits_SK=given.logits_SK, **rows))
    assert scores["mean_average_precision"] == pytest.approx(
        sk.average_precision_score(one[:, 2], given.logits_SK[:, 2])
    )
    target, logits = given.targets_SK[:, :1], given.logits_SK[:, :1]
    scores = label_scores(evaluation(120, 1, targets_SK=target, logits_SK=logits, **rows))
    binary = pytest.approx(sk.f1_score(target[:, 0], logits[:, 0] > 0))
    assert scores["micro_f1"] == binary and scores["macro_f1"] == binary
    assert scores["mean_average_precision"] == pytest.approx(
        sk.average_precision_score(target[:, 0], logits[:, 0])
    )


def test_what_is_neither_a_label_nor_predicted_has_no_score():
    nothing = dict(labels_S=None, targets_SK=np.zeros((4, 3), np.int64), fields={})
    scores = label_scores(evaluation(4, 3, logits_SK=np.full((4, 3), -9.0, np.float32), **nothing))
    assert set(scores) == {"exact_match", "loss"} and scores["exact_match"] == 1


def test_a_row_without_targets_is_left_out():
    given = multi_label()
    some = given.targets_SK.copy()
    some[5] = -1
    rest = given.select(np.arange(120) != 5)
    assert label_scores(
        evaluation(120, 6, labels_S=None, targets_SK=some, logits_SK=given.logits_SK)
    ) == label_scores(rest)


def test_groups_are_scored_apart():
    given = evaluation()
    groups = group_scores(given, "speaker")
    assert list(groups) == ["1", "2"]  # a third of the samples has no speaker
    rows = np.arange(200) % 3 == 2
    assert groups["2"]["accuracy"] == label_scores(given.select(rows))["accuracy"]
    assert groups["2"]["num_samples"] == rows.sum()


def test_groups_are_in_the_order_of_numbers():
    given = evaluation(12, fields={"fold": [i % 12 for i in range(12)]})
    assert list(group_scores(given, "fold")) == [str(i) for i in range(12)]


def test_unknown_field_is_named():
    with pytest.raises(UserError, match=r"no field 'speakr' .*did you mean 'speaker'.*members"):
        group_scores(evaluation(), "speakr")


def test_label_without_a_class_is_refused():
    with pytest.raises(UserError, match="label 9, but the model has only 8 classes"):
        evaluation(labels_S=np.full(200, 9))


def test_all_names_of_scores_are_told():
    assert set(label_scores(evaluation())) == set(ONE_LABEL_SCORES)
    assert set(label_scores(multi_label())) == set(MULTI_LABEL_SCORES)
