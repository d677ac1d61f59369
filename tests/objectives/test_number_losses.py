"""Losses of numbers against a slow reference in float64, on one process and on two."""

import pytest
import torch
from ranks import run_ranks

from mmlight import comm
from mmlight.errors import UserError
from mmlight.objectives.regression import AbsoluteError, Huber, SquaredError

DRAWS = torch.Generator().manual_seed(0)
VALUE = torch.randn(6, 2, generator=DRAWS, dtype=torch.float64) * 2
TARGET = torch.randn(6, 2, generator=DRAWS, dtype=torch.float64)
COUNTED = torch.tensor([True, True, False, True, True, True])


def reference(kind, value_BK, target_BK):
    parts = []
    for value, target in zip(value_BK.flatten(), target_BK.flatten(), strict=True):
        apart = (value - target).abs()
        if kind is SquaredError:
            parts.append(apart * apart)
        elif kind is AbsoluteError or apart > 1:
            parts.append(apart if kind is AbsoluteError else apart - 0.5)
        else:
            parts.append(apart * apart / 2)
    return torch.stack(parts).mean()


def _both(kind, rows=slice(None)):
    value = VALUE[rows].clone().requires_grad_()
    target = TARGET[rows].clone()
    target[~COUNTED[rows]] = torch.inf
    loss = kind()(value, target, counted_B=COUNTED[rows]).value
    loss.backward()
    return loss.detach(), value.grad


@pytest.mark.parametrize("kind", [SquaredError, AbsoluteError, Huber])
def test_value_and_gradient_equal_the_reference(kind):
    loss, gradient = _both(kind)
    value = VALUE.clone().requires_grad_()
    wanted = reference(kind, value[COUNTED], TARGET[COUNTED])
    wanted.backward()
    torch.testing.assert_close(loss, wanted.detach(), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(gradient, value.grad, atol=1e-12, rtol=1e-12)


def _on_rank():
    # The first rank has the only sample that does not count.
    rows = slice(0, 3) if comm.rank() == 0 else slice(3, 6)
    loss, gradient = _both(Huber, rows)
    return {"loss": loss, "gradient": gradient}


def test_two_ranks_give_the_loss_of_one(tmp_path):
    loss, gradient = _both(Huber)
    ranks = run_ranks(_on_rank, world_size=2, folder=tmp_path)
    for found in ranks:
        torch.testing.assert_close(found["loss"], loss)
    # DDP takes the mean of the ranks' gradients
    both = torch.cat([found["gradient"] for found in ranks]) / 2
    torch.testing.assert_close(both, gradient)


def test_a_huber_without_a_bend_is_refused():
    with pytest.raises(UserError, match="delta: 0 must be above 0"):
        Huber(delta=0)
