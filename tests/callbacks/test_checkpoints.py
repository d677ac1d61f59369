"""Checkpoints: which are kept, and writing them in the background."""

import threading
import time

import cli_data
import pytest
import torch

from mmlight.callbacks.checkpoints import (
    AtomicCheckpointIO,
    BackgroundCheckpointIO,
    CheckpointSettings,
)
from mmlight.runs.run import RunFolder


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
    run = RunFolder(tmp_path)
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
