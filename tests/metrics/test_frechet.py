"""The Frechet distance against SciPy's matrix root."""

import numpy as np
import pytest
import scipy.linalg
import torch

from mmlight.errors import UserError
from mmlight.metrics.frechet import frechet_distance


def test_it_equals_the_formula_with_a_matrix_root():
    draws = np.random.default_rng(0)
    first, second = draws.normal(size=(40, 6)), draws.normal(1, 2, size=(30, 6)) ** 2
    a, b = np.cov(first.T), np.cov(second.T)
    root = scipy.linalg.sqrtm(a @ b).real
    expected = ((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(a + b - 2 * root)
    found = frechet_distance(torch.from_numpy(first), torch.from_numpy(second))
    assert found == pytest.approx(expected, rel=1e-9)


def test_equal_sets_are_at_no_distance_even_with_few_samples():
    few = torch.randn(5, 12)  # singular covariances
    assert frechet_distance(few, few.flip(0)) == pytest.approx(0, abs=1e-5)
    assert frechet_distance(few, few + 2) == pytest.approx(12 * 4, rel=1e-5)


def test_one_sample_has_no_spread():
    with pytest.raises(UserError, match="two samples"):
        frechet_distance(torch.zeros(1, 2), torch.zeros(5, 2))
