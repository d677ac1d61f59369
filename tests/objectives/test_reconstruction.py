"""The loss of reconstructions against a slow reference."""

import numpy as np
import pytest
import torch

from mmlight.errors import UserError
from mmlight.objectives.reconstruction import Reconstruction


def reference(values, wanted, real=None, *, l1=1.0, l2=1.0, least=0.25, most=6.0, window=5):
    """One sample, place by place."""
    reach = window // 2
    height, width = wanted.shape[1:]
    contrast = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            near = wanted[:, max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
            contrast[y, x] = np.sqrt(near.var((1, 2)).mean())
    weight = np.clip(contrast / contrast.mean(), least, most)
    off = values - wanted
    error = (l1 * np.abs(off) + l2 * off**2).mean(0) * weight
    return error.mean() if real is None else error[real].mean()


@pytest.mark.parametrize("settings", [{}, {"l1": 0.0, "window": 3}, {"l2": 0.5, "most": 2.0}])
def test_it_equals_the_reference(settings):
    draws = np.random.default_rng(0)
    values, wanted = draws.uniform(size=(2, 2, 3, 9, 7))
    real = draws.uniform(size=(2, 9, 7)) < 0.6
    given = [torch.from_numpy(part) for part in (values, wanted)]
    loss = Reconstruction(**settings)
    found = loss(*given).tolist()
    assert found == pytest.approx(
        [reference(*p, **settings) for p in zip(values, wanted, strict=True)]
    )
    found = loss(*given, real_BHW=torch.from_numpy(real)).tolist()
    assert found == pytest.approx(
        [reference(*p, **settings) for p in zip(values, wanted, real, strict=True)]
    )


def test_equal_limits_weigh_all_places_alike():
    values, wanted = torch.rand(2, 2, 3, 8, 8)
    found = Reconstruction(l2=0.0, least=1, most=1)(values, wanted)
    torch.testing.assert_close(found, (values - wanted).abs().mean((1, 2, 3)))


@pytest.mark.parametrize(
    "settings", [{"l1": 0.0, "l2": 0.0}, {"least": 0.0}, {"most": 0.5}, {"window": 4}]
)
def test_values_out_of_range_are_refused(settings):
    with pytest.raises(UserError, match="must"):
        Reconstruction(**settings)
