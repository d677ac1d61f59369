"""What the job script decides when srun has returned."""

import zipfile

import pytest

from mmlight.errors import UserError
from mmlight.runs.run.attempts import append_event, read_attempts
from mmlight.runs.run.folder import Run
from mmlight.runs.slurm.after_srun import main
from mmlight.runs.slurm.decision import Failure, decide
from mmlight.runs.slurm.ending import failed_node
from mmlight.runs.slurm.job import job_name


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "name" / "id")


def start(run, step=0):
    append_event(run.path, "start", job="7", restart=0, step=step, host="a")


def end(run, step, reason, *, hand_on=False, **more):
    append_event(run.path, "end", step=step, reason=reason, hand_on=hand_on, **more)


def save(run, step):
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(run.checkpoints / f"step-{step:08d}.ckpt", "w") as file:
        file.writestr("data", "")


def decided(run, code, *, max_requeues=50, max_stuck=2):
    decision = decide(run, code, max_requeues=max_requeues, max_stuck=max_stuck)
    if decision.action == "hand on":
        append_event(run.path, "requeued", step=decision.step, stuck=decision.stuck)
    return decision


def test_finished_run_is_left(run):
    start(run)
    save(run, 9)
    end(run, 9, "finished")
    assert decided(run, 0).action == "leave"
    assert decided(run, 0).exit_code == 0


def test_run_told_to_stop_is_handed_on_with_exit_code_0(run):
    start(run)
    save(run, 9)
    end(run, 9, "USR1", hand_on=True)
    decision = decided(run, 0)
    assert (decision.action, decision.reason, decision.exit_code) == ("hand on", "USR1", 0)
    assert (decision.step, decision.stuck) == (9, 0)


def test_rank_that_crashes_after_all_was_saved_changes_nothing(run):
    start(run)
    save(run, 9)
    end(run, 9, "TERM", hand_on=True)
    assert decided(run, 134).action == "hand on"


def test_crash_is_handed_on_while_checkpoints_advance(run):
    for step in (5, 10, 15):
        start(run, step - 5)
        save(run, step)
        assert decided(run, 137).action == "hand on"
    start(run, 15)
    assert decided(run, 137).action == "hand on"  # the first start without a new checkpoint
    start(run, 15)
    decision = decided(run, 137)
    assert (decision.action, decision.exit_code) == ("give up", 137)
    assert "no progress beyond step 15 in 2 starts in a row" in decision.reason
    assert "killed by signal 9" in decision.reason


def test_stalled_run_is_handed_on_and_the_rank_that_stood_still_is_to_blame(run):
    def stalled():
        start(run, 5)
        why = "failed: stalled: rank 1 on b: no step for 20 min"
        end(run, 7, why, stalled=True, node="b")
        # What the stopped rank says when it is ended.
        end(run, 7, "failed: RuntimeError: connection closed")
        failure = Failure(None, "a")  # its process left first
        return decide(run, 75, max_requeues=9, max_stuck=2, failure=failure)

    save(run, 5)
    decision = stalled()
    assert (decision.action, decision.node, decision.exit_code) == ("hand on", "b", 0)
    assert decision.reason.startswith("failed: stalled: rank 1 on b")
    append_event(run.path, "requeued", step=5, stuck=1, node="b")
    assert stalled().action == "give up"


def test_progress_after_a_stuck_start_counts_anew(run):
    start(run)
    assert decided(run, 1).stuck == 1
    start(run)
    save(run, 3)
    assert decided(run, 1).stuck == 0
    start(run, 3)
    assert decided(run, 1).action == "hand on"


def test_stop_before_the_first_step_is_a_failure_when_it_repeats(run):
    end(run, 0, "USR1", hand_on=True)
    assert decided(run, 0).action == "hand on"
    end(run, 0, "USR1", hand_on=True)
    decision = decided(run, 0)
    assert (decision.action, decision.exit_code) == ("give up", 1)


def test_number_of_hand_ons_is_bounded(run):
    for step in (1, 2, 3):
        start(run, step - 1)
        save(run, step)
        end(run, step, "USR1", hand_on=True)
        decision = decided(run, 0, max_requeues=2)
    assert (decision.action, decision.exit_code) == ("give up", 1)
    assert "handed on 2 times" in decision.reason


@pytest.mark.parametrize("code", [2, 143])
def test_mistake_of_a_user_is_not_tried_again(run, code):
    start(run)
    save(run, 3)
    if code != 2:  # srun tells the code of a rank that it killed
        end(run, 3, "failed: UserError: no such metric", mistake=True)
    decision = decided(run, code)
    assert (decision.action, decision.exit_code) == ("give up", code)


def test_cancelled_run_stays_cancelled(run):
    start(run)
    save(run, 3)
    end(run, 3, "TERM", hand_on=True)
    run.cancelled.touch()
    assert decided(run, 0).action == "leave"


def test_run_started_again_after_giving_up_has_a_new_chance(run):
    start(run)
    decided(run, 1)
    start(run)
    assert decided(run, 1).action == "give up"
    append_event(run.path, "gave up", reason="no progress")
    start(run)
    assert decided(run, 1).action == "hand on"


def test_giving_up_is_noted(run, capsys):
    start(run)
    code = main([str(run.path), "1"], {"MMLIGHT_MAX_STUCK": "1"})
    assert code == 1
    assert "no progress" in read_attempts(run.path).problem
    assert "mmlight: gave up: no progress" in capsys.readouterr().out


def test_bound_that_is_no_number_is_refused(run):
    with pytest.raises(UserError, match="MMLIGHT_MAX_STUCK is 'two'"):
        main([str(run.path), "1"], {"MMLIGHT_MAX_STUCK": "two"})


def test_task_of_an_array_is_named_as_slurm_names_it():
    assert job_name({"SLURM_JOB_ID": "12"}) == "12"
    task = {"SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "3"}
    assert job_name(task) == "9_3"


def failing(run, failure, times, *, can_exclude=lambda nodes: True):
    """Decide so often about a run that never saves a step."""
    found = []
    for _ in range(times):
        start(run)
        decision = decide(
            run, 137, max_requeues=50, max_stuck=2, failure=failure, can_exclude=can_exclude
        )
        found.append(decision)
        if decision.action != "hand on":
            break
        append_event(
            run.path,
            "requeued",
            step=decision.step,
            stuck=decision.stuck,
            lost=decision.lost,
            node=decision.node,
            exclude=list(decision.exclude),
        )
    return found


def test_a_node_that_fails_is_no_failure_of_the_run_and_left_out_the_second_time(run):
    found = failing(run, Failure("node failure: n2", "n2"), 9)
    assert [d.action for d in found] == ["hand on"] * 9
    assert {d.stuck for d in found} == {0} and found[0].reason == "node failure: n2"
    assert [d.exclude for d in found[:3]] == [(), ("n2",), ("n2",)]
    assert [d.delay_s for d in found] == [0, 30, 60, 120, 240, 480, 960, 1800, 1800]


def test_lost_nodes_end_a_run_some_time(run):
    found = failing(run, Failure("node failure: n2", "n2"), 99)
    assert len(found) == 51 and "handed on 50 times already" in found[-1].reason


def test_a_process_that_always_dies_on_one_node_is_tried_once_without_it(run):
    first, second, *rest = failing(run, Failure(None, "n2"), 9)
    assert (first.stuck, first.exclude) == (1, ())
    assert (second.action, second.exclude) == ("hand on", ("n2",))
    assert [d.action for d in rest] == ["give up"]  # it fails elsewhere too
    assert "in 3 starts in a row" in rest[0].reason


@pytest.mark.parametrize(
    ("failure", "can_exclude"),
    [(Failure(None, "n2"), lambda nodes: False), (Failure(None, None), lambda nodes: True)],
)
def test_without_another_node_a_stuck_run_is_given_up(run, failure, can_exclude):
    found = failing(run, failure, 9, can_exclude=can_exclude)
    assert [d.action for d in found] == ["hand on", "give up"]


def test_processes_that_die_on_different_nodes_accuse_none(run):
    failing(run, Failure(None, "n1"), 1)
    (decision,) = failing(run, Failure(None, "n2"), 1)
    assert decision.action == "give up"


def test_progress_ends_the_waiting(run):
    failing(run, Failure("node failure: n2", "n2"), 3)
    save(run, 5)
    (decision,) = failing(run, Failure("node failure: n1", "n1"), 1)
    assert (decision.delay_s, decision.lost, decision.exclude) == (0, 1, ("n2",))


def test_a_setup_that_failed_is_noted_and_given_up(run):
    assert main([str(run.path), "2", "setup failed: module load x"], {}) == 2
    assert read_attempts(run.path).problem == "setup failed: module load x"


SAID = """mmlight: job 7 begins on n[1-3]
srun: error: n3: task 2: Killed
mmlight: requeueing job 7
mmlight: job 7 begins on n[1-3]
step 1
srun: error: n2: task 1: Exited with exit code 1
srun: error: n[1,3]: tasks 0,2: Terminated
"""


@pytest.mark.parametrize(
    ("said", "node"),
    [
        (SAID, "n2"),
        (SAID + "mmlight: job 7 begins on n[1-3]\n", None),
        ("2026-01-31T12:00:00 srun: error: n4: task 1: Killed\\n", "n4"),
        ("srun: error: Node failure on n9\nsrun: error: n1: task 0: Killed\n", "n9"),
        ("srun: error: n[1-2]: tasks 0-1: Killed\n", None),
        ("", None),
    ],
)
def test_srun_says_on_which_node_a_process_failed_first(tmp_path, said, node):
    (tmp_path / "7.out").write_text(said)
    assert failed_node(tmp_path / "7.out") == node
