"""DPO against its equation in float64, one pair after another, gradients too."""

import math

import pytest
import torch

from mmlight.errors import UserError
from mmlight.objectives.dpo import Dpo, PairLogP


def slowly(chosen, rejected, ref_chosen, ref_rejected, beta):
    """arXiv 2305.18290, eq. 7, of one pair."""
    reward = beta * (chosen - ref_chosen), beta * (rejected - ref_rejected)
    return -math.log(1 / (1 + math.exp(-(reward[0] - reward[1]))))


@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_loss_and_gradients_are_those_of_the_equation(beta):
    torch.manual_seed(0)
    given = [(5 * torch.randn(6, dtype=torch.float64)).requires_grad_(n < 2) for n in range(4)]
    counted = torch.tensor([True, True, False, True, True, False])
    loss = Dpo(beta=beta)(PairLogP(*given[:2]), PairLogP(*given[2:]), counted_B=counted).value
    rows = [n for n in range(6) if counted[n]]
    slow = [slowly(*(float(part[n].detach()) for part in given), beta) for n in rows]
    assert float(loss.detach()) == pytest.approx(sum(slow) / 4, abs=1e-12)
    loss.backward()
    step = 1e-6
    for which in (0, 1):
        for n in range(6):
            ends = []
            for sign in (1, -1):
                moved = [part.detach().clone() for part in given]
                moved[which][n] += sign * step
                terms = [slowly(*(float(part[m]) for part in moved), beta) for m in rows]
                ends.append(sum(terms) / 4)
            slope = (ends[0] - ends[1]) / (2 * step)
            assert float(given[which].grad[n]) == pytest.approx(slope, abs=1e-8)


def test_a_beta_out_of_range_is_refused():
    with pytest.raises(UserError, match="beta: 0 must be above 0"):
        Dpo(beta=0)
