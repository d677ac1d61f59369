"""The state of a run, of what SLURM and its folder say."""

import json
import os
import time
from dataclasses import replace
from datetime import datetime

import pytest

from mmlight.runs.run.attempts import append_event
from mmlight.runs.run.folder import Run
from mmlight.runs.run.heartbeats import Beat, write_beat
from mmlight.runs.run.state import State, state_of
from mmlight.runs.run.submission import CANCELLED, Submission
from mmlight.runs.slurm.client import QueuedJob
from mmlight.runs.slurm.durations import readable


def job(job_id, state, *, reason="None"):
    return QueuedJob(job_id, state, "N/A", "debug", reason)


def queue(state, **options):
    return {"12": job("12", state, **options)}


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "runs/a/1"
    path.mkdir(parents=True)
    Submission("1", "a", "x.yaml", ("11", "12"), 1.0, "me", 1, 0, 1, "c.yaml", ".").write(path)
    return path


def log(run, rows, *, age_s=0.0):
    path = run / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    os.utime(path, (time.time() - age_s,) * 2)


def summarise(run, status, *, age_s=0.0, **values):
    path = run / "summary.json"
    path.write_text(json.dumps({"status": status, **values}))
    os.utime(path, (time.time() - age_s,) * 2)


@pytest.mark.parametrize(
    ("state", "reason", "expected"),
    [
        ("PENDING", "Priority", State("waiting", "Priority")),
        ("PENDING", "None", State("waiting")),
        ("RUNNING", "None", State("running")),
        ("COMPLETING", "None", State("ending")),
        ("SUSPENDED", "None", State("running", "suspended")),
    ],
)
def test_slurm_tells_of_active_runs(run, state, reason, expected):
    # Whatever an attempt before this one has left behind.
    append_event(run, "end", step=3, reason="failed: x")
    assert state_of(Run(run), queue(state, reason=reason)) == expected


def test_folder_tells_how_a_run_ended(run):
    def state(told="COMPLETED"):
        return state_of(Run(run), queue(told))

    append_event(run, "start", step=0)
    assert state().word == "stopped"
    assert state("TIMEOUT") == State("stopped", "timeout")
    append_event(run, "gave up", reason="no step in 2 starts")
    assert state("FAILED") == State("failed", "no step in 2 starts")
    (run / CANCELLED).touch()
    assert state("CANCELLED") == State("cancelled")
    append_event(run, "end", step=6, reason="finished")
    assert state() == State("finished")


def test_a_job_that_failed_early_says_why(run):
    (run / "slurm").mkdir()
    (run / "slurm/12.out").write_text(
        "Traceback\nmmlight: trainer.max_steps: must be a whole number\nsrun: error: Exited\n"
        "mmlight: gave up: a setting is wrong; the log says which\n"
    )
    said = "trainer.max_steps: must be a whole number"
    assert state_of(Run(run), queue("FAILED")) == State("failed", said)
    append_event(run, "gave up", reason="a setting is wrong; the log says which")
    assert state_of(Run(run), queue("FAILED")) == State("failed", said)


def test_a_rank_that_stands_still_is_named_and_nothing_of_an_earlier_start(run):
    def beat(rank, *, ago):
        of = {"rank": rank, "world": 2, "host": f"node{rank + 1}", "pid": 1, "step": 3}
        write_beat(run, Beat(**of, passed=7, doing="in a step", still_s=0, longest_s=1, every_s=5))
        os.utime(run / f"heartbeats/{rank}", (time.time() - ago,) * 2)

    def state(*, began_ago):
        began = f"{datetime.fromtimestamp(time.time() - began_ago):%Y-%m-%dT%H:%M:%S}"
        told = {"12": replace(job("12", "RUNNING"), start=began)}
        return state_of(Run(run), told)

    beat(0, ago=3)
    beat(1, ago=50)
    found = state(began_ago=3600)
    assert found.word == "running"
    assert found.why.startswith("rank 1 on node2: no step for 50 s (not heard of")
    beat(0, ago=50)
    assert state(began_ago=40) == State("running")
    (run / "submission.json").unlink()
    log(run, [{"step": 3}], age_s=50)
    assert state_of(Run(run), None).why.startswith("all 2 ranks: no step for 50 s")
    # Its steps take longer than it may be silent.
    log(run, [{"step": 3}], age_s=3600)
    beat(0, ago=3)
    beat(1, ago=3)
    assert state_of(Run(run), None) == State("running")


def test_a_resubmitted_run_is_in_the_state_of_its_new_job(run):
    append_event(run, "resubmitted", job="13")
    told = {**queue("FAILED"), "13": job("13", "RUNNING")}
    assert state_of(Run(run), told) == State("running")


def test_a_job_that_slurm_has_forgotten(run):
    assert state_of(Run(run), {}) == State("stopped", "SLURM has forgotten job 12")
    assert state_of(Run(run), None).word == "unknown"


def test_runs_without_slurm_are_told_by_their_files(run):
    (run / "submission.json").unlink()

    def state():
        return state_of(Run(run), {})

    log(run, [{"step": 1}])
    assert state() == State("running")
    log(run, [{"step": 1}], age_s=3600)
    assert state() == State("stopped", "broken off")
    summarise(run, "failed", error="ValueError: no")
    assert state() == State("failed", "ValueError: no")
    summarise(run, "finished")
    assert state() == State("finished")
    summarise(run, "interrupted", age_s=60)
    log(run, [{"step": 1}])  # it goes on
    assert state() == State("running")


def test_time_left_is_told_by_the_last_steps(run):
    log(run, [{"step": s, "wall_s": 100 + 2.0 * s} for s in (10, 20, 30)])
    assert Run(run).seconds_left is None
    append_event(run, "start", step=10, max_steps=130)
    assert Run(run).planned_steps == 130
    assert Run(run).seconds_left == pytest.approx(200)


def test_durations_are_readable():
    said = [readable(s) for s in (5, 600, 7200, 200_000)]
    assert said == ["5 s", "10 min", "2.0 h", "2.3 days"]
