"""Steps that are not finite change nothing, on any number of ranks."""

import copy

import pytest
import torch
from ranks import run_ranks
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from mmlight import comm
from mmlight.trainer.finite_steps import FiniteSteps


class Flagging(FiniteSteps):
    """Does on a CPU what a GPU has done: the fused kernel is told by a flag."""

    @staticmethod
    def _can_flag(optimizer, norm):
        return True


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def adam(net, **settings):
    return torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.1, **settings)


def step(net, optimizer, finite, *, spoiled=False, most=0.5, by_value=False):
    """One step, whose loss may be NaN, as Lightning makes it."""

    def closure():
        optimizer.zero_grad()
        loss = net(torch.ones(5, 3)).square().mean()
        (loss * (float("nan") if spoiled else 1.0)).backward()
        finite.clip(optimizer, most=most, by_value=by_value)
        return loss

    optimizer.step(closure)


def state(net, optimizer):
    return copy.deepcopy([net.state_dict(), optimizer.state_dict()["state"]])


@pytest.mark.parametrize(
    ("finite", "optimiser"),
    [
        (FiniteSteps, adam),
        (FiniteSteps, lambda net: adam(net, fused=True)),
        (FiniteSteps, lambda net: torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)),
        (Flagging, lambda net: adam(net, fused=True)),
    ],
    ids=["loop", "fused", "sgd", "flag"],
)
def test_a_step_that_is_not_finite_is_as_if_it_had_not_been(finite, optimiser):
    net, checks = model(), finite()
    optimizer = optimiser(net)
    step(net, optimizer, checks)
    before = state(net, optimizer)
    for _ in range(2):
        step(net, optimizer, checks, spoiled=True)
    assert checks.read() == (2, 2)
    torch.testing.assert_close(state(net, optimizer), before, rtol=0, atol=0)
    step(net, optimizer, checks)
    assert checks.read() == (0, 2)

    straight = model()
    other = optimiser(straight)
    for _ in range(2):
        step(straight, other, finite())
    torch.testing.assert_close(net.state_dict(), straight.state_dict(), rtol=0, atol=0)


def test_an_infinite_gradient_of_a_finite_loss_counts(monkeypatch):
    net, checks = model(), FiniteSteps()
    optimizer = adam(net)
    net(torch.ones(1, 3)).sum().backward()
    next(net.parameters()).grad[0, 0] = torch.inf
    checks.clip(optimizer, most=0.0)
    assert checks.read() == (1, 1) and all(p.grad is None for p in net.parameters())


def test_gradients_are_clipped_as_torch_clips_them():
    for by_value in (False, True):
        nets = model(), model()
        for net in nets:
            (100 * net(torch.ones(5, 3)).square().mean()).backward()
        FiniteSteps().clip(adam(nets[0]), most=0.1, by_value=by_value)
        clip = nn.utils.clip_grad_value_ if by_value else nn.utils.clip_grad_norm_
        clip(nets[1].parameters(), 0.1)
        for one, other in zip(*(net.parameters() for net in nets), strict=True):
            assert torch.equal(one.grad, other.grad)


def test_losses_of_accumulated_batches_count_as_one_step():
    checks = FiniteSteps()
    for losses in ([1.0, float("inf")], [float("nan"), 2.0], [3.0, 1.0]):
        for loss in losses:
            checks.note_loss(torch.tensor(loss))
        checks.count_losses()
    assert checks.read() == (0, 2)


def _spoiled_on_one_rank() -> dict:
    found = {}
    for how in ("ddp", "fsdp"):
        net, checks = model(), FiniteSteps()
        if how == "ddp":
            trained = DistributedDataParallel(net)
        else:
            trained = fully_shard(net, mesh=init_device_mesh("cpu", (comm.world_size(),)))
        optimizer = adam(trained)
        step(trained, optimizer, checks)
        before = [p.detach().clone() for p in trained.parameters()]
        step(trained, optimizer, checks, spoiled=comm.rank() == 1)
        same = all(torch.equal(a, b) for a, b in zip(trained.parameters(), before, strict=True))
        counts = checks.read()
        step(trained, optimizer, checks)
        found[how] = [list(counts), same, list(checks.read())]
    return found


def test_all_ranks_leave_out_what_is_not_finite_on_one(tmp_path):
    for found in run_ranks(_spoiled_on_one_rank, world_size=2, folder=tmp_path):
        assert found == {how: [[1, 1], True, [0, 1]] for how in ("ddp", "fsdp")}
