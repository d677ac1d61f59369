"""DPO against its equation in float64, one pair after another, gradients too."""

import math

import pytest
import torch

from mmlight.errors import UserError
from mmlight.objectives.dpo import Dpo, PairLogP


def slowly(chosen, rejected, ref_chosen, ref_rejected, *, beta, nll_weight, tokens):
    """arXiv 2305.18290, eq. 7, of one pair, and the second term of arXiv 2404.19733, eq. 1."""
    reward = beta * (chosen - ref_chosen), beta * (rejected - ref_rejected)
    return -math.log(1 / (1 + math.exp(-(reward[0] - reward[1])))) - nll_weight * chosen / tokens


@pytest.mark.parametrize(("beta", "nll_weight"), [(0.1, 0.0), (0.7, 0.3)])
def test_loss_and_gradients_are_those_of_the_equation(beta, nll_weight):
    torch.manual_seed(0)
    given = [(5 * torch.randn(6, dtype=torch.float64)).requires_grad_(n < 2) for n in range(4)]
    counted = torch.tensor([True, True, False, True, True, False])
    tokens = torch.tensor([3, 1, 4, 1, 5, 9])
    pairs = [PairLogP(*given[at : at + 2], tokens) for at in (0, 2)]
    loss = Dpo(beta=beta, nll_weight=nll_weight)(*pairs, counted_B=counted).value

    def term(parts, row):
        values = (float(part[row].detach()) for part in parts)
        settings = {"beta": beta, "nll_weight": nll_weight, "tokens": int(tokens[row])}
        return slowly(*values, **settings)

    rows = [n for n in range(6) if counted[n]]
    slow = [term(given, n) for n in rows]
    assert float(loss.detach()) == pytest.approx(sum(slow) / 4, abs=1e-12)
    loss.backward()
    step = 1e-6
    for which in (0, 1):
        for n in range(6):
            ends = []
            for sign in (1, -1):
                moved = [part.detach().clone() for part in given]
                moved[which][n] += sign * step
                terms = [term(moved, m) for m in rows]
                ends.append(sum(terms) / 4)
            slope = (ends[0] - ends[1]) / (2 * step)
            assert float(given[which].grad[n]) == pytest.approx(slope, abs=1e-8)


def test_a_beta_out_of_range_is_refused():
    with pytest.raises(UserError, match="beta: 0 must be above 0"):
        Dpo(beta=0)
    with pytest.raises(UserError, match="nll_weight: -1 must be 0 or more"):
        Dpo(nll_weight=-1)
