"""Losses of classification against torch's in float64."""

import pytest
import torch
import torch.nn.functional as F
from ranks import run_ranks

from mmlight import comm
from mmlight.errors import UserError
from mmlight.objectives.labels import BinaryCrossEntropy, CrossEntropy

LOGITS = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
LABELS = torch.tensor([0, 3, 1, 1, 2, 0, 3])
ALL = torch.ones(7, dtype=torch.bool)


def both(objective, target_BK, counted_B=ALL):
    """Value and gradient."""
    logits = LOGITS.clone().requires_grad_()
    loss = objective(logits, target_BK, counted_B=counted_B).value
    (grad,) = torch.autograd.grad(loss, logits)
    return loss.detach().double(), grad


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0, 3.0]])
def test_cross_entropy_equals_torchs(smoothing, weights):
    objective = CrossEntropy(label_smoothing=smoothing, class_weights=weights)
    objective.build(4)
    value, grad = both(objective, F.one_hot(LABELS, 4))
    logits = LOGITS.clone().requires_grad_()
    wanted = F.cross_entropy(
        logits,
        LABELS,
        weight=torch.tensor(weights, dtype=torch.float64) if weights else None,
        label_smoothing=smoothing,
    )
    (wanted_grad,) = torch.autograd.grad(wanted, logits)
    torch.testing.assert_close(value, wanted.detach(), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(grad, wanted_grad, atol=1e-9, rtol=1e-9)


def test_mixed_targets_equal_a_mixture_of_losses():
    objective = CrossEntropy()
    objective.build(4)
    one, other = F.one_hot(LABELS, 4).double(), F.one_hot(LABELS.flip(0), 4).double()
    value, _ = both(objective, 0.3 * one + 0.7 * other)
    wanted = 0.3 * both(objective, one)[0] + 0.7 * both(objective, other)[0]
    torch.testing.assert_close(value, wanted, atol=1e-9, rtol=1e-9)


def test_binary_cross_entropy_equals_torchs():
    objective = BinaryCrossEntropy(label_smoothing=0.2, class_weights=[1.0, 2.0, 3.0, 4.0])
    objective.build(4)
    target = (torch.rand(7, 4, generator=torch.Generator().manual_seed(1)) > 0.5).double()
    value, _ = both(objective, target)
    wanted = F.binary_cross_entropy_with_logits(
        LOGITS, target * 0.8 + 0.1, weight=torch.tensor([1.0, 2.0, 3.0, 4.0]).double()
    )
    torch.testing.assert_close(value, wanted, atol=1e-9, rtol=1e-9)


def test_samples_without_a_label_do_not_count():
    objective = CrossEntropy()
    objective.build(4)
    counted = torch.tensor([True, False, True, True, False, False, True])
    value, grad = both(objective, F.one_hot(LABELS, 4) * counted[:, None], counted)
    wanted = F.cross_entropy(LOGITS[counted], LABELS[counted])
    torch.testing.assert_close(value, wanted, atol=1e-9, rtol=1e-9)
    assert (grad[~counted] == 0).all()
    nothing, grad = both(objective, torch.zeros(7, 4), ~ALL)
    assert nothing == 0
    assert (grad == 0).all()


def test_balanced_weights_are_the_inverse_of_shares():
    objective = CrossEntropy(class_weights="balanced")
    objective.build(3, counts_K=[10, 20, 30])
    torch.testing.assert_close(objective.weight_K, torch.tensor([2.0, 1.0, 2 / 3]))
    assert (objective.weight_K * torch.tensor([10.0, 20, 30])).sum() == pytest.approx(60)
    assert "weight_K" in objective.state_dict()
    with pytest.raises(UserError, match="class 1 has no training sample"):
        CrossEntropy(class_weights="balanced").build(2, counts_K=[3, 0])
    with pytest.raises(UserError, match="2 weights for 3 classes"):
        CrossEntropy(class_weights=[1.0, 2.0]).build(3)


def _gradient_on_this_rank():
    """The loss, and the gradient averaged over ranks as DDP does it; rank 0 has few labels."""
    size = 6 // comm.world_size()
    rows = slice(comm.rank() * size, (comm.rank() + 1) * size)
    layer = torch.nn.Linear(4, 4, dtype=torch.float64)
    torch.nn.init.constant_(layer.weight, 0.1)
    torch.nn.init.zeros_(layer.bias)
    objective = CrossEntropy(class_weights=[1.0, 2.0, 3.0, 4.0], label_smoothing=0.1)
    objective.build(4)
    counted = torch.tensor([True, False, False, True, True, True])
    target = F.one_hot(LABELS[:6], 4) * counted[:, None]
    loss = objective(layer(LOGITS[:6][rows]), target[rows], counted_B=counted[rows]).value
    loss.backward()
    grad = layer.weight.grad
    assert grad is not None
    return {"loss": loss.detach(), "grad": comm.all_reduce_sum(grad) / comm.world_size()}


def test_ranks_agree_with_one_process(tmp_path):
    alone = _gradient_on_this_rank()
    for rank in run_ranks(_gradient_on_this_rank, world_size=2, folder=tmp_path):
        for name, wanted in alone.items():
            torch.testing.assert_close(rank[name], wanted, rtol=1e-9, atol=1e-9)
