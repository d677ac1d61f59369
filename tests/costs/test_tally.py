"""What is counted of a computation, against arithmetic by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmlight.costs.tally import Tally


def test_a_perceptrons_flops_are_those_on_paper():
    net = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5))
    x = torch.ones(7, 10)
    with Tally() as tally:
        net(x).sum().backward()
    first, second = 2 * 7 * 10 * 20, 2 * 7 * 20 * 5
    # Backward: gradients of both weights, and of the hidden layer; the input needs none.
    assert tally.counted.flops == 2 * first + 3 * second


def test_fused_attention_is_counted_as_two_products_and_five():
    q, k, v = (torch.ones(2, 3, 16, 8, requires_grad=True) for _ in range(3))
    with Tally() as tally:
        F.scaled_dot_product_attention(q, k, v).sum().backward()
    product = 2 * (2 * 3) * 16 * 16 * 8
    assert tally.counted.flops == (2 + 5) * product


def test_flops_are_torchs_own_for_a_convolution():
    net, x = nn.Conv2d(3, 8, 3, padding=1), torch.ones(2, 3, 6, 6)
    with Tally() as tally:
        net(x).sum().backward()
    with FlopCounterMode(display=False) as torchs:
        net(x).sum().backward()
    work = tally.counted.work["conv"]
    assert work.flops == torchs.get_total_flops() == 2 * (2 * 2 * 36 * 3 * 8 * 9)
    # 3 channels take the time of 16, and so do 8.
    assert work.padded_flops == pytest.approx(work.flops * (16 / 3) * 2)


def test_memory_is_that_of_the_tensors_held_at_once():
    with Tally() as tally:
        kept = torch.zeros(1000)
        passing = kept + 1
        assert tally.counted.held_bytes == 8000
        del passing
        assert tally.counted.held_bytes == 4000
        view = kept.view(10, 100)
        assert tally.counted.held_bytes == 4000 and view.shape == (10, 100)
    assert tally.counted.peak_bytes == 8000


def test_activations_are_what_backward_needs():
    weight = torch.ones(64, 64, requires_grad=True)
    x = torch.ones(32, 64)
    tally = Tally()
    tally.ignore([weight, x])
    with tally:
        out = (x @ weight).relu().sum()
        # The product is gone, relu's result is kept, the sum is one number.
        assert tally.counted.held_bytes == 32 * 64 * 4 + 4
        out.backward()


def test_results_and_random_numbers_are_untouched():
    def draw():
        torch.manual_seed(3)
        x = torch.randn(4, 4, requires_grad=True)
        F.dropout(x, 0.5).square().sum().backward()
        return x.grad

    before = draw()
    with Tally():
        after = draw()
    assert torch.equal(before, after)
