"""`--ckpt_path auto`: the newest whole checkpoint of this run, and what is said of damaged ones."""

import logging
import os

import pytest
import torch
import torch.distributed.checkpoint as dcp

from mmlight.runs.run.folder import Run
from mmlight.saved.checkpoint import CHECKPOINT_KEY
from mmlight.saved.locate import META
from mmlight.trainer.checkpoint_files import clean, find_whole, put_later_aside


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path / "name" / "id")
    run.checkpoints.mkdir(parents=True)
    return run


def save(run, name, *, at):
    path = run.checkpoints / name
    torch.save({CHECKPOINT_KEY: {}, "weights": torch.ones(999)}, path)
    os.utime(path, (at, at))
    return path


def save_in_parts(run, name, *, at):
    path = run.checkpoints / name
    dcp.save({"state_dict": {"weights": torch.ones(999)}}, checkpoint_id=path, no_dist=True)
    torch.save({CHECKPOINT_KEY: {}}, path / META)
    os.utime(path, (at, at))
    return path


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def test_run_without_a_checkpoint_starts_afresh(run, caplog):
    assert find_whole(run) is None
    assert find_whole(Run(run.path.parent / "other")) is None
    assert warnings(caplog) == []


@pytest.mark.parametrize("write", [save, save_in_parts])
def test_newest_is_taken_without_a_word(run, caplog, write):
    write(run, "step-00000002.ckpt", at=1)
    newest = write(run, "step-00000004.ckpt", at=2)
    save(run, "best-00000009.ckpt", at=3)
    assert find_whole(run) == newest
    assert warnings(caplog) == []


def test_one_cut_in_half_is_put_aside_for_the_one_before_it(run, caplog):
    before = save(run, "step-00000002.ckpt", at=1)
    newest = save(run, "step-00000004.ckpt", at=2)
    cut(newest)
    assert find_whole(run) == before
    assert f"{newest}: is cut short or damaged" in caplog.text
    assert f"going on from {before}" in caplog.text
    assert [p.name for p in run.checkpoints_newest_first()] == [before.name]
    assert (run.checkpoints / f".{newest.name}.damaged").exists()


def test_one_in_parts_with_a_part_cut_is_put_aside(run, caplog):
    before = save_in_parts(run, "step-00000002.ckpt", at=1)
    newest = save_in_parts(run, "step-00000004.ckpt", at=2)
    (part,) = newest.glob("*.distcp")
    cut(part)
    assert find_whole(run) == before
    assert f"{part.name} is cut short" in caplog.text


def test_best_one_is_better_than_none(run, caplog):
    best = save(run, "best-00000001.ckpt", at=1)
    cut(save(run, "step-00000004.ckpt", at=2))
    assert find_whole(run) == best


def test_only_damaged_ones_are_as_none_and_this_is_said(run, caplog):
    cut(save(run, "step-00000004.ckpt", at=2))
    assert find_whole(run) is None
    assert "starting afresh" in caplog.text


def test_step_counts_and_not_the_clock(run, caplog):
    """A clock that was ahead once would have every later start go back."""
    save(run, "step-00000002.ckpt", at=4_000_000_000)
    save(run, "best-00000009.ckpt", at=4_000_000_000)
    newest = save(run, "step-00000010.ckpt", at=1)
    assert find_whole(run) == run.newest_checkpoint() == newest
    assert run.checkpoint_step() == 10


def test_a_second_one_of_a_step_comes_after_the_first(run):
    """Earlier versions wrote a second one in the middle of an accumulation."""
    first = save(run, "step-00000009.ckpt", at=1)
    save(run, "step-00000009-v1.ckpt", at=2)
    assert run.newest_checkpoint() == first


def test_checkpoints_beyond_the_start_are_put_aside_and_named(run, caplog):
    kept = save(run, "step-00000002.ckpt", at=1)
    save(run, "step-00000004.ckpt", at=2)
    save_in_parts(run, "step-00000006.ckpt", at=3)
    save(run, "best-00000004.ckpt", at=2)
    put_later_aside(run.checkpoints, step=2)
    assert run.checkpoints_newest_first() == [kept]
    assert "training begins at step 2" in caplog.text
    assert ".step-00000006.ckpt.superseded" in caplog.text
    assert (run.checkpoints / ".best-00000004.ckpt.superseded").is_file()


def test_what_a_killed_process_was_writing_is_removed(run):
    newest = save(run, "step-00000002.ckpt", at=1)
    (run.checkpoints / ".step-00000004.ckpt.ab12.part").write_bytes(b"half")
    (run.checkpoints / ".step-00000006.ckpt.cd34.part").mkdir()
    (run.path / ".summary.json.ab12.part").write_text("{")
    clean(run)
    assert list(run.checkpoints.iterdir()) == [newest]
    assert list(run.path.iterdir()) == [run.checkpoints]
