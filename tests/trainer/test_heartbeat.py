"""A training tells that it is alive; one that stands still is ended with its stacks."""

import multiprocessing
import os
import signal
import time

import lightning.pytorch as pl
import pytest
from tiny_run import TinyData, TinyTask

from mmlight.errors import UserError
from mmlight.runs.run.attempts import read_attempts
from mmlight.runs.run.folder import Run
from mmlight.runs.run.heartbeats import read_beats
from mmlight.trainer import heartbeat
from mmlight.trainer.heartbeat import STALLED, Heartbeat


class Look(pl.Callback):
    """Takes a step to see what others see."""

    def __init__(self, run, *, hang=False):
        self.run, self.hang, self.seen = run, hang, []

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 3:
            time.sleep(0.5)
            self.seen += read_beats(self.run.path)
            while self.hang:
                time.sleep(0.1)


def fit(run, look, **settings):
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=5,
        num_sanity_val_steps=0,
        default_root_dir=run.path,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[Heartbeat(run, **settings), look],
    )
    trainer.fit(TinyTask(), datamodule=TinyData())


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(heartbeat, "_EVERY_S", 0.1)
    return Run.create(tmp_path, name="tiny", run_id="1")


def test_a_training_tells_where_it_is(run):
    look = Look(run)
    fit(run, look)
    (seen,) = look.seen
    assert (seen.rank, seen.world, seen.step, seen.pid) == (0, 1, 3, os.getpid())
    assert (seen.passed, seen.doing) == (7, "in a step")
    assert 0 < seen.still_s < 0.6
    assert not (run.path / "heartbeats").exists()


def test_a_training_that_stands_still_is_ended(run):
    process = multiprocessing.get_context("fork").Process(
        target=fit, args=(run, Look(run, hang=True)), kwargs={"stall_minutes": 0.02}
    )
    process.start()
    process.join(60)
    assert process.exitcode == STALLED
    (stacks,) = (run.path / "stalls").iterdir()
    assert "local-0-rank0" in stacks.name
    text = stacks.read_text()
    assert "rank 0 on" in text.splitlines()[0] and "no step for" in text.splitlines()[0]
    assert "in on_train_batch_start" in text
    (end,) = read_attempts(run.path).events
    assert end["step"] == 3 and end["stalled"]
    assert end["reason"].startswith("failed: stalled: rank 0 on")


def test_a_process_that_was_suspended_as_a_whole_goes_on(run, monkeypatch):
    monkeypatch.setattr(heartbeat, "_LATE_S", 0.5)
    process = multiprocessing.get_context("fork").Process(
        target=fit, args=(run, Look(run)), kwargs={"stall_minutes": 0.03}
    )
    process.start()
    end = time.monotonic() + 60
    while not any(beat.step == 3 for beat in read_beats(run.path)):
        assert time.monotonic() < end
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(3)  # longer than it may stand still
    os.kill(process.pid, signal.SIGCONT)
    process.join(60)
    assert process.exitcode == 0
    assert not (run.path / "stalls").exists()


def test_a_full_disk_ends_no_training(run):
    (run.path / "heartbeats").write_text("no folder can be made here")
    fit(run, Look(run))
    assert (run.path / "heartbeats").read_text()


def test_no_time_at_all_is_refused(run):
    with pytest.raises(UserError, match="stall_minutes 0 must be more than 0"):
        Heartbeat(run, stall_minutes=0)
