"""Cross-entropy over tokens against a slow float64 reference, and over two ranks."""

import pytest
import ranks
import torch

from mmlight import comm
from mmlight.errors import UserError
from mmlight.objectives.tokens import TokenLoss


def case():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 5, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    target = torch.randint(7, (4, 5), generator=generator)
    counted = torch.rand(4, 5, generator=generator) > 0.4
    counted[0] = False
    return logits, target, counted


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_it_is_the_mean_over_counted_tokens(smoothing):
    logits, target, counted = case()
    total = 0.0
    for n, place in counted.nonzero().tolist():
        log_p = logits[n, place] - torch.log(torch.exp(logits[n, place]).sum())
        total = total - (1 - smoothing) * log_p[target[n, place]] - smoothing * log_p.mean()
    expected = total / int(counted.sum())
    found = TokenLoss(label_smoothing=smoothing)(logits, target, counted_NL=counted).value
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    slow, fast = (torch.autograd.grad(v, logits)[0] for v in (expected, found))
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-12)


def _on_a_rank():
    rank = comm.rank()
    logits, target, counted = case()
    rows = slice(2 * rank, 2 * rank + 2)
    loss = TokenLoss()(logits[rows], target[rows], counted_NL=counted[rows]).value
    return float(loss), torch.autograd.grad(loss, logits)[0]


def test_ranks_with_unequal_numbers_of_tokens_have_the_loss_of_one_process(tmp_path):
    logits, target, counted = case()
    whole = TokenLoss()(logits, target, counted_NL=counted).value
    gradient = torch.autograd.grad(whole, logits)[0]
    results = ranks.run_ranks(_on_a_rank, world_size=2, folder=tmp_path)
    assert all(loss == pytest.approx(float(whole.detach()), abs=1e-12) for loss, _ in results)
    mean = sum(g for _, g in results) / 2
    torch.testing.assert_close(mean, gradient, rtol=0, atol=1e-12)


def test_nothing_counted_is_a_loss_of_zero_with_gradients():
    logits, target, counted = case()
    loss = TokenLoss()(logits, target, counted_NL=torch.zeros_like(counted)).value
    assert loss == 0 and torch.autograd.grad(loss, logits)[0].abs().max() == 0


def test_a_share_out_of_range_is_refused():
    with pytest.raises(UserError, match="label_smoothing"):
        TokenLoss(label_smoothing=1.0)
