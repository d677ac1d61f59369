"""Which parameters are decayed, and how fast they move."""

import pytest
import torch
from torch import nn

from mmlight.errors import UserError
from mmlight.optim.adamw import AdamWSettings
from mmlight.optim.groups import weight_decay_groups


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.zeros(4, 3))
        self.scale = nn.Parameter(torch.zeros(1))
        self.tower = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 3))
        self.tower10 = nn.Linear(3, 3, bias=False)


def names_of(model, group):
    by_id = {id(p): n for n, p in model.named_parameters()}
    return {by_id[id(p)] for p in group["params"]}


def test_vectors_and_named_parameters_are_not_decayed():
    model = Model()
    groups = weight_decay_groups(model, weight_decay=0.2, no_decay={"position", "absent"})
    found = {g["name"]: names_of(model, g) for g in groups}
    assert found == {
        "decay": {"tower.0.weight", "tower.2.weight", "tower10.weight"},
        "no_decay": {
            "position", "scale", "tower.0.bias", "tower.1.weight", "tower.1.bias", "tower.2.bias",
        },
    }  # fmt: skip
    assert {g["name"]: g["weight_decay"] for g in groups} == {"decay": 0.2, "no_decay": 0.0}
    assert all("lr" not in g for g in groups)


def test_positions_are_decayed_as_in_open_clip_3_and_vectors_of_any_shape_are_not():
    model = Model()
    model.class_token = nn.Parameter(torch.zeros(1, 1, 3))
    groups = weight_decay_groups(
        model, weight_decay=0.2, no_decay={"position", "class_token"}, rule="vectors"
    )
    found = {g["name"]: names_of(model, g) for g in groups}
    assert "position" in found["decay"] and "class_token" in found["no_decay"]
    assert found["no_decay"] >= {"scale", "tower.0.bias", "tower.1.weight"}
    with pytest.raises(UserError, match="no_decay: 'all'; use one of vectors_and_listed, vectors"):
        AdamWSettings(no_decay="all")


def test_frozen_parameters_are_left_out():
    model = Model()
    model.tower.requires_grad_(False)
    groups = weight_decay_groups(model, weight_decay=0.2)
    assert set().union(*(names_of(model, g) for g in groups)) == {
        "position",
        "scale",
        "tower10.weight",
    }


def test_a_shared_parameter_is_taken_once_and_any_of_its_names_excludes_it():
    model = Model()
    model.tower10.weight = model.tower[0].weight
    groups = weight_decay_groups(model, weight_decay=0.2, no_decay={"tower10.weight"})
    taken = [p for g in groups for p in g["params"]]
    assert len(taken) == len({id(p) for p in taken}) == len(list(model.parameters()))
    assert "tower.0.weight" in names_of(model, next(g for g in groups if g["name"] == "no_decay"))


def test_factors_scale_the_learning_rate():
    model = Model()
    groups = weight_decay_groups(
        model, weight_decay=0.1, lr=2.0, lr_scales={"tower.0.weight": 0.1, "scale": 3}
    )
    lr_of = {name: g["lr"] for g in groups for name in names_of(model, g)}
    assert lr_of == {
        "position": 2.0,
        "scale": 6.0,
        "tower.0.weight": 0.2,
        "tower.0.bias": 2.0,
        "tower.1.weight": 2.0,
        "tower.1.bias": 2.0,
        "tower.2.weight": 2.0,
        "tower.2.bias": 2.0,
        "tower10.weight": 2.0,
    }


def test_a_frozen_model_is_refused():
    model = Model()
    model.requires_grad_(False)
    with pytest.raises(UserError, match="no trainable parameter"):
        weight_decay_groups(model, weight_decay=0.1)


def test_adamw_moves_and_decays_as_by_hand():
    model = Model().double()
    settings = AdamWSettings(lr=0.1, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.5)
    optimizer = settings.build(weight_decay_groups(model, weight_decay=settings.weight_decay))
    assert all(g["fused"] is True for g in optimizer.param_groups)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    gradients = {n: torch.randn_like(p) for n, p in model.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.grad = gradients[name].clone()
    optimizer.step()
    for name, parameter in model.named_parameters():
        # After one step the running means, freed of their bias, are g and g^2.
        move = 0.1 * gradients[name] / (gradients[name].abs() + 1e-6)
        keep = 1 - 0.1 * 0.5 if parameter.ndim > 1 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * keep - move)


def test_fused_and_plain_kernels_agree():
    results = []
    for fused in (True, False):
        torch.manual_seed(0)
        model = Model().double()
        optimizer = AdamWSettings(lr=0.01, fused=fused).build(
            weight_decay_groups(model, weight_decay=0.2)
        )
        for step in range(5):
            for parameter in model.parameters():
                parameter.grad = torch.sin(parameter.detach() + step)
            optimizer.step()
        results.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)


def test_fused_is_refused_where_there_is_no_kernel():
    meta = nn.Linear(2, 2, device="meta")
    groups = weight_decay_groups(meta, weight_decay=0.0)
    with pytest.raises(UserError, match=r"optimizer\.fused: true"):
        AdamWSettings(fused=True).build(groups)
    assert AdamWSettings().build(groups).param_groups[0]["fused"] is False


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"lr": 0.0}, "optimizer.lr: 0.0"),
        ({"betas": (0.9, 1.0)}, "optimizer.betas"),
        ({"eps": -1.0}, "optimizer.eps"),
        ({"weight_decay": -0.1}, "optimizer.weight_decay"),
    ],
)
def test_settings_out_of_range_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        AdamWSettings(**settings)
