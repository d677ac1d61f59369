import copy
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mmlight.errors import UserError
from mmlight.trainer.ema import Ema


class Regression(pl.LightningModule):
    """Small, but with what makes averaging hard: a late model, batch norm, ties, frozen parts."""

    def __init__(self):
        super().__init__()
        self.seen = []
        self.epoch_end = None

    def configure_model(self):
        if hasattr(self, "net"):
            return
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
        self.tied = self.net[0]
        self.frozen = nn.Linear(4, 1).requires_grad_(False)
        self.double()

    def training_step(self, batch, batch_idx):
        return self.frozen(self.net(batch[0])).square().mean() * (1 + batch[0].sum().abs())

    def validation_step(self, batch, batch_idx):
        self.seen.append({k: v.clone() for k, v in self.state_dict().items()})

    def on_validation_epoch_end(self):
        self.epoch_end = self.net[0].weight.detach().clone()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.05)


class Trace(pl.Callback):
    """Keeps the raw weights after every optimiser step."""

    def __init__(self):
        self.after = {}

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.after[trainer.global_step] = copy.deepcopy(pl_module.state_dict())


def fit(folder: Path, *, callbacks, max_steps, ckpt_path=None, **kwargs):
    torch.manual_seed(1)
    data = TensorDataset(torch.randn(32, 4, dtype=torch.float64))
    module = Regression()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=max_steps,
        logger=False,
        callbacks=callbacks,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        check_val_every_n_epoch=None,
        **{"val_check_interval": 5, "num_sanity_val_steps": 1, **kwargs},
    )
    loader = DataLoader(data, batch_size=4)
    val = DataLoader(data, batch_size=32)
    trainer.fit(module, loader, val, ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
    return module, trainer


def hand_average(start, after, *, decay, every=1):
    average, updates = {k: v.clone() for k, v in start.items()}, 0
    for step in sorted(after):
        if step % every == 0:
            d = min(decay, (1 + updates) / (10 + updates))
            for name in average:
                average[name] = d * average[name] + (1 - d) * after[step][name]
            updates += 1
    return average


def floats(state):
    return {k: v for k, v in state.items() if v.is_floating_point()}


def start_state():
    module = Regression()
    module.configure_model()
    return module.state_dict()


@pytest.mark.parametrize("every", [1, 3])
def test_average_equals_a_loop_by_hand_and_is_what_fit_leaves(tmp_path, every):
    trace = Trace()
    module, _ = fit(tmp_path, callbacks=[Ema(decay=0.7, update_every=every), trace], max_steps=13)
    expected = hand_average(
        floats(start_state()),
        {step: floats(state) for step, state in trace.after.items()},
        decay=0.7,
        every=every,
    )
    for name, value in floats(module.state_dict()).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-14)
    assert not torch.equal(module.net[0].weight, trace.after[13]["net.0.weight"])


def test_validation_sees_the_average_up_to_its_epoch_end_and_training_does_not(tmp_path):
    with_ema, plain = Trace(), Trace()
    module, _ = fit(tmp_path, callbacks=[Ema(decay=0.7), with_ema], max_steps=5)
    fit(tmp_path, callbacks=[plain], max_steps=5)
    average = hand_average(floats(start_state()), dict(with_ema.after), decay=0.7)
    torch.testing.assert_close(module.seen[-1]["net.0.weight"], average["net.0.weight"])
    torch.testing.assert_close(module.seen[-1]["net.1.running_var"], average["net.1.running_var"])
    torch.testing.assert_close(module.epoch_end, average["net.0.weight"])
    for step, state in plain.after.items():
        for name in state:
            assert torch.equal(state[name], with_ema.after[step][name])


def test_an_accumulated_batch_is_no_update(tmp_path):
    ema = Ema(decay=0.7)
    fit(tmp_path, callbacks=[ema], max_steps=4, accumulate_grad_batches=2)
    assert ema.num_updates == 4


@pytest.mark.parametrize("at", [4, 5])  # between validations, and where one has just ended
def test_resuming_restores_the_weights_and_shows_the_average(tmp_path, at):
    whole_trace = Trace()
    fit(tmp_path, callbacks=[Ema(decay=0.7), whole_trace], max_steps=12)
    checkpoints = ModelCheckpoint(dirpath=tmp_path / "c", every_n_train_steps=at, save_top_k=-1)
    first = [Ema(decay=0.7, update_every=2), checkpoints]
    fit(tmp_path, callbacks=first, max_steps=at)
    path = next((tmp_path / "c").glob("*.ckpt"))
    rest_trace, rest_ema = Trace(), Ema(decay=0.7, update_every=2)
    rest, trainer = fit(tmp_path, callbacks=[rest_ema, rest_trace], max_steps=at, ckpt_path=path)
    assert trainer.global_step == at and not rest_trace.after
    state = torch.load(path, weights_only=True)
    for name, value in rest.state_dict().items():
        assert torch.equal(value, state["state_dict"][name]), name
    for name, value in state["ema"]["weights"].items():
        assert torch.equal(value, whole_trace.after[at][name]), name
    assert rest_ema.num_updates == state["ema"]["num_updates"] == at // 2


class Replay(torch.utils.data.Dataset):
    """A data set whose batches are known by their step, so that a resumed run sees what is next."""

    def __init__(self, start):
        self.start = start

    def __len__(self):
        return 100

    def __getitem__(self, i):
        generator = torch.Generator().manual_seed(self.start + i)
        return [torch.randn(4, 4, dtype=torch.float64, generator=generator)]


def run_steps(folder, *, start, stop, ema, ckpt_path=None, save=False):
    module = Regression()
    checkpoint = ModelCheckpoint(dirpath=folder, save_last=True, every_n_train_steps=stop)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=stop,
        max_epochs=-1,
        logger=False,
        callbacks=[ema, checkpoint] if save else [ema],
        enable_checkpointing=save,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    loader = DataLoader(Replay(start), batch_size=None)
    trainer.fit(module, loader, ckpt_path=ckpt_path, weights_only=True)
    return module, trainer


def test_training_on_from_a_checkpoint_ends_with_the_same_average_bit_for_bit(tmp_path):
    whole, _ = run_steps(tmp_path / "a", start=0, stop=11, ema=Ema(decay=0.7))
    run_steps(tmp_path / "b", start=0, stop=5, ema=Ema(decay=0.7), save=True)
    last = tmp_path / "b" / "last.ckpt"
    rest, trainer = run_steps(tmp_path / "b", start=5, stop=11, ema=Ema(decay=0.7), ckpt_path=last)
    assert trainer.global_step == 11
    for name, value in floats(whole.state_dict()).items():
        assert torch.equal(value, rest.state_dict()[name]), name


def test_checkpoint_without_an_average_starts_one_from_its_weights(tmp_path):
    saver = ModelCheckpoint(dirpath=tmp_path / "c", every_n_train_steps=4)
    fit(tmp_path, callbacks=[saver], max_steps=4)
    path = next((tmp_path / "c").glob("*.ckpt"))
    module, _ = fit(tmp_path, callbacks=[Ema(decay=0.7)], max_steps=4, ckpt_path=path)
    state = torch.load(path, weights_only=True)["state_dict"]
    assert torch.equal(module.net[0].weight, state["net.0.weight"])


def test_tied_weights_are_the_average_under_both_names(tmp_path):
    saver = ModelCheckpoint(dirpath=tmp_path / "c", every_n_train_steps=5)
    fit(tmp_path, callbacks=[Ema(decay=0.7), saver], max_steps=5)
    checkpoint = torch.load(next((tmp_path / "c").glob("*.ckpt")), weights_only=True)
    state = checkpoint["state_dict"]
    assert torch.equal(state["net.0.weight"], state["tied.weight"])
    assert not torch.equal(state["tied.weight"], checkpoint["ema"]["weights"]["net.0.weight"])
    assert "frozen.weight" not in checkpoint["ema"]["weights"]


def test_bfloat16_weights_keep_a_float32_average(tmp_path):
    module = nn.Module()
    module.p = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    ema = Ema(decay=0.999)
    ema._begin(module)
    assert ema._average["p"].dtype == torch.float32


def test_what_would_lose_the_average_is_refused(tmp_path):
    saver = ModelCheckpoint(dirpath=tmp_path, save_weights_only=True)
    with pytest.raises(UserError, match="save_weights_only"):
        fit(tmp_path, callbacks=[Ema(), saver], max_steps=1)
    with pytest.raises(UserError, match="decay 1"):
        Ema(decay=1.0)
    with pytest.raises(UserError, match="update_every 0"):
        Ema(update_every=0)
