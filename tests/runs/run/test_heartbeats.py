"""Which rank holds a run up, of the ranks' small files."""

import os
import time
from dataclasses import replace

import pytest

from mmlight.runs.run import heartbeats
from mmlight.runs.run.heartbeats import Beat, read_beats, remove_beat, step_age, write_beat

NOW = 1000.0


def stall(beats, now, **options):
    found = heartbeats.stall(beats, now, **options)
    assert found is None or ("all" in found.text or f"on {found.host}" in found.text)
    return found and found.text


def beat(rank=0, *, ago=2.0, world=2, passed=40, still_s=0.0, longest_s=1.0, **values):
    return Beat(
        rank=rank,
        world=world,
        host=f"node{rank + 1}",
        pid=1,
        step=20,
        passed=passed,
        doing=values.pop("doing", "in a step"),
        still_s=still_s,
        longest_s=longest_s,
        every_s=5.0,
        at=NOW - ago,
    )


def test_a_run_that_gets_on_is_not_named():
    assert stall([], NOW) is None
    assert stall([beat(0), beat(1, ago=4, passed=38)], NOW) is None
    assert stall([beat(0, still_s=30), beat(1, still_s=30)], NOW) is None
    # As long as a checkpoint took before.
    slow = [beat(rank, still_s=300, longest_s=200) for rank in (0, 1)]
    assert stall(slow, NOW) is None
    assert step_age(slow, NOW) == 302


def test_stopped_rank_is_named_and_not_those_that_wait_for_it():
    told = stall([beat(0, still_s=70), beat(1, ago=74, passed=39)], NOW)
    assert told == (
        "rank 1 on node2: no step for 74 s (not heard of for 74 s: stopped, or its machine hangs)"
    )
    # Even where the files tell that it was the first to come there.
    assert stall([beat(0, still_s=70), beat(1, ago=74, passed=41)], NOW) == told


def test_rank_that_lives_and_stands_still_is_the_one_that_passed_least():
    waiting = beat(0, passed=41, still_s=80)
    hanging = beat(1, passed=40, still_s=79, doing="waits for data")
    assert stall([waiting, hanging], NOW) == "rank 1 on node2: no step for 81 s (waits for data)"
    same = [beat(0, still_s=80), beat(1, still_s=79)]
    assert stall(same, NOW) == "all 2 ranks: no step for 82 s (in a step)"
    assert stall(same, NOW, limit_s=200) is None
    some = [*(beat(rank, still_s=80, world=3) for rank in (0, 1)), beat(2, passed=41, still_s=70)]
    assert stall(some, NOW) == "rank 0 on node1 and 1 more: no step for 82 s (in a step)"


def test_files_of_earlier_starts_and_damaged_ones_are_passed_over(tmp_path):
    for rank in range(4):
        write_beat(tmp_path, beat(rank, world=4))
        os.utime(tmp_path / f"heartbeats/{rank}", (time.time() - 500,) * 2)
    write_beat(tmp_path, replace(beat(1), doing="x" * 100))
    write_beat(tmp_path, beat(1))
    (tmp_path / "heartbeats/7").write_text("[" * 500)
    os.mkfifo(tmp_path / "heartbeats/8")
    found = read_beats(tmp_path)
    assert [(b.rank, b.world) for b in found] == [(0, 4), (1, 2)]
    assert found[1].at == pytest.approx(time.time(), abs=5)
    assert [b.rank for b in read_beats(tmp_path, since=time.time() - 60)] == [1]
    assert read_beats(tmp_path / "none") == []
    for name in ("7", "8", "2", "3"):
        (tmp_path / "heartbeats" / name).unlink()
    remove_beat(tmp_path, 0)
    remove_beat(tmp_path, 1)
    assert not (tmp_path / "heartbeats").exists()
