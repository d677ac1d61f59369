"""Calibration error and temperature scaling, against loops and torchmetrics."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torchmetrics.functional.classification import multiclass_calibration_error

from mmlight.metrics.calibration import (
    NUM_BINS,
    calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability_bins,
)


def overconfident(size=2000, num_classes=6, *, factor=3.0, seed=0):
    """Logits `factor` times as large as those that the labels were drawn from."""
    draws = np.random.default_rng(seed)
    true = draws.normal(size=(size, num_classes)) * 1.5
    chance = np.exp(true) / np.exp(true).sum(1, keepdims=True)
    labels = np.array([draws.choice(num_classes, p=p) for p in chance])
    return (factor * true).astype(np.float32), labels


def slow_error(logits, labels, num_bins):
    total = 0.0
    chance = np.exp(logits.astype(np.float64))
    chance /= chance.sum(1, keepdims=True)
    for low in range(num_bins):
        rows = [i for i, p in enumerate(chance) if low / num_bins <= p.max() < (low + 1) / num_bins]
        if rows:
            right = np.mean([chance[i].argmax() == labels[i] for i in rows])
            total += len(rows) * abs(right - np.mean([chance[i].max() for i in rows]))
    return total / len(labels)


def test_error_equals_a_loop_and_torchmetrics():
    logits, labels = overconfident(500)
    error = calibration_error(reliability_bins(logits, labels))
    assert error == pytest.approx(slow_error(logits, labels, NUM_BINS), abs=1e-12)
    theirs = multiclass_calibration_error(
        torch.softmax(torch.tensor(logits), 1), torch.tensor(labels), 6, n_bins=NUM_BINS
    )
    assert error == pytest.approx(float(theirs), abs=1e-6)
    assert error > 0.05


def test_bins_hold_every_labelled_sample_once():
    logits, labels = overconfident(300)
    labels[:50] = -1
    logits[60] = np.nan
    bins = reliability_bins(logits, labels)
    assert bins.count_M.sum() == 249
    assert np.isnan(bins.accuracy_M[0])  # no confidence can be below 1/6


def test_certain_predictions_are_in_the_last_bin():
    logits = np.array([[200.0, 0.0], [0.0, 200.0]], np.float32)
    bins = reliability_bins(logits, np.array([0, 0]))
    assert bins.count_M[-1] == 2
    assert calibration_error(bins) == pytest.approx(0.5)


def test_without_samples_there_is_no_error():
    bins = reliability_bins(np.zeros((2, 3), np.float32), np.full(2, -1))
    assert np.isnan(calibration_error(bins))


def test_temperature_undoes_overconfidence_and_is_the_best_there_is():
    logits, labels = overconfident(factor=3.0)
    temperature = fit_temperature(logits, labels)
    assert temperature == pytest.approx(3.0, rel=0.1)
    best = minimize_scalar(
        lambda t: negative_log_likelihood(logits, labels, temperature=t),
        bounds=(0.5, 10),
        options={"xatol": 1e-9},
    )
    assert temperature == pytest.approx(best.x, rel=1e-4)
    held_out = overconfident(factor=3.0, seed=1)
    before, after = (
        calibration_error(reliability_bins(*held_out, temperature=t)) for t in (1.0, temperature)
    )
    assert after < before / 3


def test_temperature_of_underconfident_logits_is_below_one():
    logits, labels = overconfident(factor=0.25)
    assert fit_temperature(logits, labels) == pytest.approx(0.25, rel=0.1)


def test_temperature_is_bounded_where_there_is_no_best_one():
    logits = 5 * np.eye(3, dtype=np.float32)[[0, 1, 2]]
    right = fit_temperature(logits, np.array([0, 1, 2]))
    wrong = fit_temperature(logits, np.array([1, 2, 0]))
    assert 0.01 <= right < 1 < wrong <= 100
    assert fit_temperature(logits, np.full(3, -1)) == 1


def test_temperature_can_be_fitted_in_a_validation_loop():
    logits, labels = overconfident(200)
    with torch.inference_mode():
        assert fit_temperature(logits, labels) == fit_temperature(*overconfident(200))


def test_loss_is_the_mean_negative_log_likelihood():
    logits, labels = overconfident(50)
    scaled = logits.astype(np.float64) / 2
    expected = np.mean(
        [np.log(np.exp(z).sum()) - z[y] for z, y in zip(scaled, labels, strict=True)]
    )
    assert negative_log_likelihood(logits, labels, temperature=2) == pytest.approx(expected)
