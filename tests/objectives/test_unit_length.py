"""Against F.normalize: values and gradients, short vectors included."""

import torch
import torch.nn.functional as F

from mmlight.objectives.pair_objective import unit_length


def test_equals_normalize_and_its_gradient():
    x_BD = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x_BD[2] = 0
    x_BD[3] *= 1e-14
    weight_BD = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gradients = []
    for function in (unit_length, lambda x: F.normalize(x, dim=-1)):
        leaf_BD = x_BD.clone().requires_grad_()
        unit_BD = function(leaf_BD)
        torch.testing.assert_close(unit_BD, F.normalize(x_BD, dim=-1), rtol=1e-14, atol=0)
        (unit_BD * weight_BD).sum().backward()
        gradients.append(leaf_BD.grad)
    torch.testing.assert_close(*gradients, rtol=1e-13, atol=1e-13)


def test_half_precision_becomes_float32_and_keeps_its_gradient():
    x_BD = torch.randn(3, 4).bfloat16().requires_grad_()
    unit_BD = unit_length(x_BD)
    assert unit_BD.dtype == torch.float32
    unit_BD[0, 0].backward()
    assert x_BD.grad.dtype == torch.bfloat16
