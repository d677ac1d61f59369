"""Muon: torch's own for matrices, AdamW for the rest, also of parameters in parts."""

import os
from copy import deepcopy
from functools import partial

import pytest
import torch
from ranks import run_ranks
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from mmlight import comm
from mmlight.errors import UserError
from mmlight.optim.adamw import AdamWSettings
from mmlight.optim.groups import weight_decay_groups
from mmlight.optim.muon import Muon, orthogonal


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.LayerNorm(10), nn.Tanh(), nn.Linear(10, 4))


def trained(module, optimizers, *, steps=5):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        inputs, wanted = (torch.randn(8, n, generator=generator) for n in (6, 4))
        (module(inputs) - wanted).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return [w.full_tensor() if hasattr(w, "full_tensor") else w for w in module.parameters()]


def test_is_torchs_muon_for_matrices_and_adamw_for_the_rest():
    ours, theirs = network(), network()
    settings = {"lr": 1e-2, "weight_decay": 0.1}
    found = trained(ours, [Muon(ours.parameters(), **settings, fallback_lr_scale=0.5)])
    matrices = [w for w in theirs.parameters() if w.ndim == 2]
    rest = [w for w in theirs.parameters() if w.ndim == 1]
    wanted = trained(
        theirs,
        [
            torch.optim.Muon(matrices, **settings, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, lr=5e-3, betas=(0.9, 0.98), weight_decay=0.1),
        ],
    )
    for one, other, before in zip(found, wanted, network().parameters(), strict=True):
        # They compute in bfloat16.
        atol = 3e-2 * float((other - before).detach().abs().max()) if one.ndim == 2 else 1e-5
        torch.testing.assert_close(one, other, rtol=0, atol=atol)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (4, 4)])
def test_steps_of_matrices_turn_them_and_do_not_stretch(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape, dtype=torch.float64)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonal(matrix, num_steps=10)
    values = torch.linalg.svdvals(found)
    assert 0.6 < values.min() and values.max() < 1.3  # what Jordan's polynomial gives
    assert torch.nn.functional.cosine_similarity(found.flatten(), (u @ vh).flatten(), dim=0) > 0.97


def test_a_saved_state_goes_on():
    module = network()
    optimizer = Muon(module.parameters())
    trained(module, [optimizer], steps=2)
    other = network()
    again = Muon(other.parameters())
    other.load_state_dict(module.state_dict())
    again.load_state_dict(deepcopy(optimizer.state_dict()))
    pairs = zip(
        trained(module, [optimizer], steps=1), trained(other, [again], steps=1), strict=True
    )
    assert all(torch.equal(a, b) for a, b in pairs)


def test_embeddings_are_trained_by_adamw():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 4))
    settings = AdamWSettings(class_path="mmlight.optim.muon.Muon", init_args={"lr": 1e-2})
    groups = weight_decay_groups(
        module, weight_decay=0.1, lr=0.01, embeddings_apart=settings.embeddings_apart
    )
    optimizer = settings.build(groups)
    assert [g["name"] for g in optimizer.param_groups] == [
        "decay_embeddings",
        "decay",
        "no_decay",
    ]
    module(torch.tensor([1, 2])).square().sum().backward()
    optimizer.step()
    kept = {n: set(optimizer.state[w]) for n, w in module.named_parameters()}
    assert kept["1.weight"] == {"momentum"}
    assert kept["0.weight"] == kept["1.bias"] == {"step", "mean", "square"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"momentum": 1.0}, "momentum 1.0"), ({"num_steps": 0}, "num_steps 1 or more")],
)
def test_values_out_of_range_are_one_line(settings, said):
    with pytest.raises(UserError, match=said):
        Muon(network().parameters(), **settings)


def on_rank():
    os.environ["LOCAL_RANK"] = str(comm.rank())
    module = network()
    fully_shard(module, mesh=init_device_mesh("cpu", (2,)))
    # Both ranks see the same samples.
    return [w.detach().clone() for w in trained(module, [Muon(module.parameters(), lr=1e-2)])]


def test_matrices_in_parts_move_as_whole_ones(tmp_path):
    module = network()
    wanted = trained(module, [Muon(module.parameters(), lr=1e-2)])
    for found in run_ranks(partial(on_rank), world_size=2, folder=tmp_path):
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
