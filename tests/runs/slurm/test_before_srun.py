"""What a job that SLURM has started again finds of its last start."""

import pytest

from mmlight.runs.run.attempts import append_event, read_attempts
from mmlight.runs.run.folder import Run
from mmlight.runs.slurm import after_srun, before_srun

JOB = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1", "SLURM_JOB_NODELIST": "n3"}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr("mmlight.runs.slurm.client.run", lambda *words: words[-1])
    monkeypatch.setattr(after_srun, "can_leave_out", lambda nodes, script: True)
    return Run(tmp_path / "name/id")


def start(run, restart, **more):
    append_event(run.path, "start", job="7", restart=restart, step=0, host="h", node="n2", **more)


def test_a_start_that_nobody_judged_was_lost_with_its_node(run):
    start(run, 0)
    assert before_srun.main([str(run.path)], JOB) == 0
    event = read_attempts(run.path).events[-1]
    assert (event["event"], event["node"], event["stuck"]) == ("requeued", "n2", 0)
    assert event["reason"] == "node failure: n2" and event["exclude"] == []
    assert before_srun.main([str(run.path)], JOB) == 0  # once
    assert len(read_attempts(run.path).events) == 2


@pytest.mark.parametrize(
    ("node", "code", "called"), [("n3", 0, []), ("n2", 1, ["requeue", "update"])]
)
def test_a_job_leaves_a_node_that_was_lost_twice(run, monkeypatch, node, code, called):
    words = []

    def noted(command, *arguments):
        words.append(arguments[0])
        return arguments[-1]

    start(run, 0)
    before_srun.main([str(run.path)], JOB)
    start(run, 1)
    monkeypatch.setattr("mmlight.runs.slurm.client.run", noted)
    again = JOB | {"SLURM_RESTART_COUNT": "2", "SLURM_JOB_NODELIST": node}
    assert before_srun.main([str(run.path)], again) == code
    assert read_attempts(run.path).events[-1]["exclude"] == ["n2"]
    assert [word for word in words if word in ("requeue", "update")] == called


@pytest.mark.parametrize("event", ["requeued", "gave up", "resubmitted"])
def test_a_start_that_was_judged_is_left_alone(run, event):
    start(run, 0)
    append_event(run.path, event, step=0, stuck=1, reason="x")
    assert before_srun.main([str(run.path)], JOB) == 0
    assert read_attempts(run.path).events[-1]["event"] == event


def test_a_run_that_has_finished_is_left_alone(run):
    start(run, 0)
    append_event(run.path, "end", step=9, reason="finished", hand_on=False)
    assert before_srun.main([str(run.path)], JOB) == 0
    assert read_attempts(run.path).finished
