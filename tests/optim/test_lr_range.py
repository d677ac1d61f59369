"""What is read off the curve of a learning-rate range test."""

import numpy as np
import pytest

from mmlight.optim.lr_range import has_diverged, lr_at, suggest
from mmlight.runs.plots.lr_range import plot_lr_range


def curve(*, steepest=1e-3, noise=0.05, num_steps=120, diverges_at=None):
    """A loss that falls as a logistic function of the rate's logarithm, then rises."""
    lrs = [lr_at(i, lowest=1e-7, highest=1.0, num_steps=num_steps) for i in range(num_steps)]
    logs = np.log10(lrs)
    losses = 3 - 2 / (1 + np.exp(-4 * (logs - np.log10(steepest))))
    if diverges_at is not None:
        losses += np.exp(8 * (logs - np.log10(diverges_at)).clip(max=1))
    losses += np.random.default_rng(0).normal(size=num_steps) * noise
    return lrs, losses.tolist()


def test_rates_rise_in_equal_ratios():
    rates = [lr_at(i, lowest=1e-4, highest=1.0, num_steps=5) for i in range(5)]
    assert rates == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1.0])


@pytest.mark.parametrize("steepest", [1e-5, 1e-3, 1e-2])
def test_rate_with_the_steepest_fall_is_suggested(steepest):
    found = suggest(*curve(steepest=steepest))
    assert np.log10(found.lr) == pytest.approx(np.log10(steepest), abs=0.25)


def test_nothing_behind_the_lowest_loss_counts():
    lrs, losses = curve(steepest=1e-4, diverges_at=1e-2)
    found = suggest(lrs, losses)
    assert found.lr < found.lowest < 2e-2
    losses[-1] = float("nan")
    assert suggest(lrs, losses).lr == pytest.approx(found.lr, rel=0.1)


def test_one_outlier_suggests_nothing_else():
    lrs, losses = curve(noise=0.0)
    before = suggest(lrs, losses).lr
    losses[30] += 0.5
    assert suggest(lrs, losses).lr == pytest.approx(before, rel=0.3)


def test_loss_that_never_falls_has_no_rate():
    lrs, losses = curve()
    assert suggest(lrs, sorted(losses)) is None
    assert suggest(lrs, [float("nan")] * len(lrs)) is None


def test_divergence_is_seen_and_a_bad_batch_is_not():
    assert not has_diverged([3.0] * 20)
    assert not has_diverged([3.0] * 19 + [30.0])
    assert has_diverged([3.0] * 20 + [30.0] * 5)
    assert has_diverged([3.0, float("nan")])
    assert not has_diverged([1.0, *np.linspace(1, 0, 30), 0.05, 0.05, 0.05])  # nearly nothing left
    assert has_diverged([-1.0] * 10 + [9.0] * 5)


def test_picture_is_drawn_with_and_without_a_suggestion(tmp_path):
    lrs, losses = curve(diverges_at=1e-2)
    losses[-1] = float("inf")
    for found in (suggest(lrs, losses), None):
        path = plot_lr_range(lrs, losses, found, tmp_path / "lr.png")
        assert path.stat().st_size > 5000
