"""Optimisers by their path: the same groups, schedule, checkpoints and messages."""

import cli_data
import pytest
import torch
import yaml
from torch import nn

from mmlight.errors import UserError
from mmlight.optim.adamw import AdamWSettings
from mmlight.optim.groups import weight_decay_groups

SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.9}}


def groups(settings, *, scales=None):
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    module[1].bias.requires_grad_(False)
    return weight_decay_groups(
        module, weight_decay=settings.weight_decay, lr=settings.lr, lr_scales=scales
    )


@pytest.mark.parametrize(
    ("path", "init_args", "kind", "decay"),
    [
        ("torch.optim.SGD", {"momentum": 0.9}, "SGD", 0),
        ("torch.optim.AdamW", {}, "AdamW", 0.01),
        ("torch.optim.RMSprop", {"weight_decay": 0.3}, "RMSprop", 0.3),
        ("timm.optim.Lion", {}, "Lion", 0),
        ("timm.optim.Muon", {}, "Muon", 0),
        ("mmlight.optim.muon.Muon", {"weight_decay": 0.1}, "Muon", 0.1),
        ("timm.optim.create_optimizer_v2", {"opt": "lamb", "weight_decay": 0.2}, "Lamb", 0.2),
    ],
)
def test_another_class_gets_the_groups_with_their_rates_and_decay(path, init_args, kind, decay):
    settings = AdamWSettings(class_path=path, init_args={"lr": 0.02, **init_args})
    optimizer = settings.build(groups(settings, scales={"0.weight": 0.5, "0.bias": 0.5}))
    assert type(optimizer).__name__ == kind
    found = {g["name"]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups}
    assert found == {
        "decay": (0.02, decay),
        "no_decay_lr_x0.5": (0.01, 0),
        "decay_lr_x0.5": (0.01, decay),
    }
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()


@pytest.mark.parametrize(
    ("path", "init_args", "said"),
    [
        ("torch.optim.SGDD", {}, "torch.optim has no SGDD.*mean 'SGD'"),
        ("torch.optm.SGD", {}, "torch.optm.SGD cannot be imported"),
        ("SGD", {}, "SGD cannot be imported"),
        ("torch.optim.SGD", {"momentun": 0.9}, "has no setting 'momentun'.*mean 'momentum'"),
        ("torch.optim.SGD", {"momentum": -1}, "torch.optim.SGD: Invalid momentum"),
        ("torch.optim.Muon", {}, r"2D.*mmlight.optim.muon.Muon trains the rest by AdamW"),
        ("torch.optim.LBFGS", {}, "LBFGS"),
        ("torch.optim.Rprop", {"weight_decay": 0.1}, "weight_decay: .* has none"),
        ("collections.OrderedDict", {}, "collections.OrderedDict is no"),
    ],
)
def test_what_cannot_be_built_is_one_line(path, init_args, said):
    settings = AdamWSettings(class_path=path, init_args=init_args)
    with pytest.raises(UserError, match=said) as raised:
        settings.build(groups(settings))
    assert "\n" not in str(raised.value)


class ScheduleFree(torch.optim.SGD):
    def train(self):
        pass

    def eval(self):
        pass


def test_schedule_free_is_refused_with_what_would_work():
    path = f"{__name__}.ScheduleFree"
    settings = AdamWSettings(class_path=path)
    with pytest.raises(UserError, match=r"schedule-free.*not supported; `ema: "):
        settings.build(groups(settings))


def test_settings_without_effect_are_refused():
    with pytest.raises(UserError, match="init_args: has no effect without class_path"):
        AdamWSettings(init_args={"momentum": 0.9})
    with pytest.raises(UserError, match=r"betas: is AdamW's"):
        AdamWSettings(class_path="torch.optim.SGD", betas=(0.8, 0.9))
    with pytest.raises(UserError, match=r"init_args.lr: must be a number, not '1e-3'"):
        AdamWSettings(class_path="torch.optim.SGD", init_args={"lr": "1e-3"})
    assert AdamWSettings().weight_decay == 0.2


OTHERS = (SGD, {"class_path": "timm.optim.Lamb"}, {"class_path": "mmlight.optim.muon.Muon"})


@pytest.mark.parametrize("optimizer", OTHERS, ids=["SGD", "Lamb", "Muon"])
def test_a_resumed_run_of_another_optimizer_is_the_run_that_nothing_happened_to(
    tmp_path, optimizer
):
    values = cli_data.experiment(cli_data.write_data(tmp_path / "data"), tmp_path / "runs")
    values["trainer"]["max_steps"] = 4
    base = tmp_path / "base.yaml"
    base.write_text(yaml.safe_dump(values))  # with AdamW's lr, which is not that of SGD
    path = tmp_path / "other.yaml"
    model = {"init_args": {"optimizer": optimizer}}
    path.write_text(yaml.safe_dump({"extends": ["base.yaml"], "model": model}))
    whole = ("fit", "-c", path, "--run.id", "whole", "--checkpoint.every_n_steps", "2")
    assert cli_data.run_in_process(*whole, "--checkpoint.keep", "3") == 0
    runs = tmp_path / "runs/other"
    kept = yaml.safe_load((runs / "whole/config.yaml").read_text())
    kept = kept["model"]["init_args"]["optimizer"]
    assert kept["class_path"] == optimizer["class_path"]
    middle = next((runs / "whole/checkpoints").glob("*step*2.ckpt"))
    again = ("fit", "-c", runs / "whole/config.yaml", "--run.id", "again", "--ckpt_path", middle)
    assert cli_data.run_in_process(*again) == 0
    found = [
        torch.load(max(p.glob("checkpoints/*.ckpt"), key=lambda f: f.stat().st_mtime_ns))
        for p in (runs / "whole", runs / "again")
    ]
    for name, tensor in found[0]["state_dict"].items():
        assert torch.equal(tensor, found[1]["state_dict"][name]), name
    lrs = {group["initial_lr"] for group in found[0]["optimizer_states"][0]["param_groups"]}
    assert lrs == {0.1 if optimizer is SGD else 5e-4}
