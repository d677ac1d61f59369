"""Checkpoints: which are kept, and writing them in the background."""

import threading
import time
from types import SimpleNamespace

import cli_data
import pytest
import torch
from lightning.pytorch.callbacks import Callback, model_checkpoint

from mmlight.runs.run.folder import Run
from mmlight.trainer.checkpoint_files import AtomicCheckpointIO, BackgroundCheckpointIO
from mmlight.trainer.checkpoints import CheckpointSettings
from mmlight.trainer.owed_validation import OwedValidation


class Gate:
    """Holds up a pickle until it is opened."""

    opened = threading.Event()

    def __reduce__(self):
        assert self.opened.wait(20)
        return (int, (7,))


@pytest.fixture
def closed():
    Gate.opened.clear()
    yield
    Gate.opened.set()


def read(path):
    return torch.load(path, weights_only=False)["weight"].tolist()


def test_background_writer_saves_what_was_there_when_it_was_asked(closed, tmp_path):
    writer, weight = BackgroundCheckpointIO(), torch.ones(2)
    target = tmp_path / "step-00000001.ckpt"
    writer.save_checkpoint({"weight": weight, "slow": Gate()}, target)
    weight += 1
    assert not target.exists()
    Gate.opened.set()
    writer.teardown()
    assert read(target) == [1, 1]
    assert list(tmp_path.iterdir()) == [target]


def test_background_writer_removes_the_old_one_after_the_new_one_is_there(closed, tmp_path):
    writer = BackgroundCheckpointIO()
    old, new = tmp_path / "step-00000001.ckpt", tmp_path / "step-00000002.ckpt"
    writer.save_checkpoint({"weight": torch.ones(1)}, old)
    writer.save_checkpoint({"weight": torch.ones(1), "slow": Gate()}, new)
    writer.remove_checkpoint(old)
    time.sleep(0.1)
    assert old.exists()
    Gate.opened.set()
    writer.wait()
    assert list(tmp_path.iterdir()) == [new]


def test_background_writer_keeps_the_old_one_and_raises_where_the_new_one_fails(tmp_path):
    class Explosive:
        def __reduce__(self):
            raise OSError("no space left on device")

    writer, old = BackgroundCheckpointIO(), tmp_path / "step-00000001.ckpt"
    writer.save_checkpoint({"weight": torch.ones(1)}, old)
    writer.save_checkpoint({"boom": Explosive()}, tmp_path / "step-00000002.ckpt")
    writer.remove_checkpoint(old)
    with pytest.raises(OSError, match="no space left"):
        writer.save_checkpoint({"weight": torch.ones(1)}, tmp_path / "step-00000003.ckpt")
    assert list(tmp_path.iterdir()) == [old]


def test_settings_choose_the_writer():
    assert type(CheckpointSettings().writer()) is AtomicCheckpointIO
    assert type(CheckpointSettings(asynchronous=True).writer()) is BackgroundCheckpointIO


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    return cli_data.experiment(cli_data.write_data(folder / "data"), folder / "runs")


def names(values, folder, **settings):
    callbacks = CheckpointSettings(**settings).callbacks(folder)
    cli_data.fit(values, folder, callbacks=callbacks)
    return sorted(path.name for path in folder.glob("*.ckpt"))


def test_newest_and_the_last_step_are_kept(values, tmp_path):
    values = cli_data.changed(values, {"trainer.max_steps": 7})
    kept = names(values, tmp_path, every_n_steps=2, keep=2)
    assert kept == ["step-00000006.ckpt", "step-00000007.ckpt"]


def test_newest_at_the_end_of_each_epoch(values, tmp_path):
    values = cli_data.changed(values, {"trainer.max_steps": 10})
    assert names(values, tmp_path) == ["step-00000010.ckpt"]


@pytest.mark.parametrize(("minutes", "steps"), [(60, [3]), (1e-6, [1, 2, 3])])
def test_clock_says_when_to_save(values, minutes, steps, tmp_path):
    values = cli_data.changed(values, {"trainer.max_steps": 3})
    kept = names(values, tmp_path, every_n_minutes=minutes, keep=-1)
    assert kept == [f"step-{step:08d}.ckpt" for step in steps]


def test_best_are_kept_beside_the_newest(values, tmp_path):
    values = cli_data.changed(values, {"trainer.max_steps": 20})
    run = Run(tmp_path)
    kept = names(
        values,
        run.checkpoints,
        every_n_steps=10,
        monitor="val/loss",
        monitor_mode="min",
        keep_best=2,
    )
    assert len([n for n in kept if n.startswith("best-")]) == 2
    assert [n for n in kept if n.startswith("step-")] == ["step-00000020.ckpt"]
    assert run.newest_checkpoint().name == "step-00000020.ckpt"
    assert run.checkpoint_step() == 20


def test_the_best_loss_is_the_smallest_unless_told_otherwise(values, tmp_path, capsys):
    def options(**more):
        return CheckpointSettings(monitor="val/loss", **more).callbacks(tmp_path)[1]

    assert options().mode == options(monitor_mode="min").mode == "min"
    assert "worst" not in capsys.readouterr().err
    assert options(monitor_mode="max").mode == "max"
    assert "monitor_mode: max keeps the largest val/loss" in capsys.readouterr().err
    assert CheckpointSettings(monitor="val/accuracy").callbacks(tmp_path)[1].mode == "max"


class Killed(Exception):
    pass


class KillAfter(Callback):
    """Ends training after so many batches, when checkpoints have been written."""

    def __init__(self, batches):
        self.batches = batches

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.fit_loop.epoch_loop.batch_progress.total.ready > self.batches:
            raise Killed


def train(values, folder, *, batches=None, resume=None, more=(), **settings):
    callbacks = [*more, *CheckpointSettings(**settings).callbacks(folder)]
    if batches is None:
        cli_data.fit(values, folder, callbacks=callbacks, ckpt_path=resume)
        return
    with pytest.raises(Killed):
        cli_data.fit(values, folder, callbacks=[KillAfter(batches), *callbacks], ckpt_path=resume)


def done(path):
    """Return how many steps and batches a checkpoint says were done."""
    loop = torch.load(path, weights_only=True)["loops"]["fit_loop"]
    steps = loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["total"]
    return steps["completed"], loop["epoch_loop.batch_progress"]["total"]["ready"]


# 5 batches an epoch: with an accumulation of 2, steps end at these.
STEPS_END = {1: 2, 2: 4, 3: 5, 4: 7, 5: 9, 6: 10}


class SecondABatch(Callback):
    """A clock by which each batch takes a second."""

    def __init__(self, monkeypatch):
        self.now = 0
        monkeypatch.setattr(model_checkpoint, "time", SimpleNamespace(monotonic=lambda: self.now))

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.now += 1


@pytest.mark.parametrize(("when", "steps"), [({"every_n_minutes": 0.05}, [2, 4, 6]), ({}, [3, 6])])
def test_nothing_is_saved_in_the_middle_of_an_accumulation(
    values, when, steps, tmp_path, monkeypatch
):
    values = cli_data.changed(values, {"trainer.accumulate_grad_batches": 2})
    train(values, tmp_path, more=[SecondABatch(monkeypatch)], keep=-1, **when)
    found = [done(path) for path in sorted(tmp_path.glob("*.ckpt"))]
    assert found == [(step, STEPS_END[step]) for step in steps]


def test_best_is_of_a_step_where_validation_was_due_between_two(values, tmp_path):
    values = cli_data.changed(
        values, {"trainer.accumulate_grad_batches": 2, "trainer.val_check_interval": 3}
    )
    options = {"keep": -1, "monitor": "val/loss", "monitor_mode": "min", "keep_best": -1}
    train(values, tmp_path, more=[OwedValidation()], every_n_steps=100, **options)
    best = sorted(tmp_path.glob("best-*.ckpt"))
    assert [done(path) for path in best] == [(2, 4), (5, 9)]


def test_resumed_run_saves_no_second_checkpoint_of_its_first_step(values, tmp_path):
    values = cli_data.changed(values, {"trainer.accumulate_grad_batches": 2})
    options = {"every_n_steps": 3, "keep": -1}
    train(values, tmp_path, batches=5, **options)
    (newest,) = tmp_path.iterdir()
    assert done(newest) == (3, 5)
    before = newest.stat().st_mtime_ns
    train(values, tmp_path, batches=6, resume=newest, **options)
    assert list(tmp_path.iterdir()) == [newest]
    assert newest.stat().st_mtime_ns == before


def test_as_many_are_kept_over_restarts_as_were_asked_for(values, tmp_path):
    values = cli_data.changed(values, {"trainer.max_steps": 10, "trainer.limit_val_batches": 0})
    options = {"keep": 2, "every_n_steps": 1}
    train(values, tmp_path, batches=3, **options)
    for batches in (4, 5):
        newest = max(tmp_path.glob("*.ckpt"))
        (tmp_path / "step-00000001.ckpt").write_bytes(b"left by a kill before it was removed")
        train(values, tmp_path, batches=batches, resume=newest, **options)
    assert sorted(p.name for p in tmp_path.glob("*.ckpt")) == [
        "step-00000004.ckpt",
        "step-00000005.ckpt",
    ]


def test_training_from_an_earlier_checkpoint_does_not_leave_the_later_ones_in_its_way(
    values, tmp_path
):
    values = cli_data.changed(values, {"trainer.max_steps": 10, "trainer.limit_val_batches": 0})
    run = Run(tmp_path)
    options = {"keep": 3, "every_n_steps": 2}
    train(values, run.checkpoints, batches=7, **options)
    earlier = run.checkpoints / "step-00000002.ckpt"
    train(values, run.checkpoints, batches=5, resume=earlier, **options)
    assert run.newest_checkpoint().name == "step-00000004.ckpt"
    assert len(run.checkpoints_newest_first()) == 2


def test_kept_best_ones_are_the_same_after_restarts(values, tmp_path):
    values = cli_data.changed(values, {"trainer.max_steps": 10, "trainer.val_check_interval": 2})
    options = {
        "every_n_steps": 1, "monitor": "val/loss", "monitor_mode": "min", "keep_best": 2
    }  # fmt: skip
    train(values, tmp_path / "whole", **options)
    folder = tmp_path / "cut"
    train(values, folder, batches=3, **options)
    for batches in (6, None):
        newest = max(folder.glob("step-*.ckpt"))
        train(values, folder, batches=batches, resume=newest, **options)
    names = [sorted(p.name for p in f.glob("*.ckpt")) for f in (tmp_path / "whole", folder)]
    assert names[0] == names[1]
    assert len(names[0]) == 3
