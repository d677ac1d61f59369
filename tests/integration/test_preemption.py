"""Whatever happens to a job, its run ends with the losses of one that nothing happened to.

`MMLIGHT_PREEMPTIONS` says how often `test_signals_at_random_steps` sends USR1 to each of its runs
(3), and TERM half as often; 10 makes it 20 and 10 in all.
"""

import os
import random
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from cli_data import run_in_process
from integration.preemption import Job, Lab
from slurm_cluster import wait_for

from mmlight.runs.slurm.client import show
from mmlight.runs.slurm.profile import Profile

pytestmark = [pytest.mark.integration, pytest.mark.timeout(7200)]

TIMES = int(os.environ.get("MMLIGHT_PREEMPTIONS", "3"))
STEPS = 80 + 20 * TIMES
CALLBACKS = "integration.preemption_callbacks"
FSDP = {"trainer__strategy": "fsdp"}


def slow(seconds):
    return {
        "trainer__callbacks": [
            {"class_path": f"{CALLBACKS}.Slow", "init_args": {"seconds": seconds}}
        ]
    }


@pytest.fixture(scope="module")
def lab(slurm, tmp_path_factory):
    return Lab(slurm, tmp_path_factory.mktemp("lab"))


def run_whole(lab, run_id, **changes):
    job = lab.submit(run_id, steps=STEPS, **changes)
    job.wait_for_end("COMPLETED", seconds=900)
    assert sorted(job.losses()) == list(range(1, STEPS + 1))
    assert job.attempts().finished
    return job.losses()


@pytest.fixture(scope="module")
def whole(lab):
    """The losses of a run of two ranks that nothing happened to."""
    return run_whole(lab, "whole")


def check(job: Job, whole: dict[int, float], *, restarts: int | None) -> None:
    """See that the run has ended complete, with the losses of the other."""
    job.wait_for_end("COMPLETED", seconds=900)
    assert job.losses() == whole, job.log()
    assert job.attempts().finished
    assert restarts in (None, job.attempts().restarts), job.attempts().events
    assert [p.name for p in job.run.checkpoints.glob(".*")] == []


def test_signals_at_random_steps(lab, whole):
    """USR1 and TERM, each without and with workers: four jobs side by side."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")

    def signalled(name: str, num_workers: int, times: int) -> int:
        run_id = f"{name}-{num_workers}"
        workers = {"data__init_args__num_workers": num_workers}
        job = lab.submit(run_id, steps=STEPS, **workers, **slow(0.1))
        draws = random.Random(f"{seed} {run_id}")
        for line in job.interrupt(name, times=times, draws=draws):
            print(f"{num_workers} workers, {line}")
        check(job, whole, restarts=times)
        return times

    cases = [("USR1", 0, TIMES), ("USR1", 2, TIMES)]
    cases += [("TERM", 0, -(-TIMES // 2)), ("TERM", 2, -(-TIMES // 2))]
    lab.prepare()
    with ThreadPoolExecutor(len(cases)) as pool:
        done = list(pool.map(lambda case: signalled(*case), cases))
    print("requeued, resumed at the right step, losses equal:", sum(done))


def test_signals_under_fsdp(lab):
    whole = run_whole(lab, "fsdp-whole", **FSDP)
    job = lab.submit("fsdp", steps=STEPS, **FSDP, **slow(0.1))
    told = job.interrupt("USR1", times=2, draws=random.Random(0))
    print(*told, sep="\n")
    check(job, whole, restarts=2)


def test_checkpoints_written_in_the_background(lab, whole):
    settings = {"every_n_steps": 3, "keep": 2, "asynchronous": True}
    job = lab.submit("background", steps=STEPS, checkpoint=settings, **slow(0.1))
    job.interrupt("USR1", times=1, draws=random.Random(1))
    began = job.wait_for_start(2)
    job.wait_for_step(began + 15)
    job.kill_rank(0)
    job.wait_for_hand_on(2)
    check(job, whole, restarts=2)


def test_preemption_by_a_higher_partition_with_grace(lab, whole):
    job = lab.submit(
        "grace", steps=STEPS, profile=profile(partition="grace", cpus_per_task=4), **slow(0.1)
    )
    job.wait_for_start(1)
    job.wait_for_step(5)
    high = ("-p", "high", "-N2", "--ntasks-per-node=1", "--cpus-per-task=4", "-t1")
    subprocess.run(["sbatch", *high, "-o", "/dev/null", "--wrap", "srun sleep 3"], check=True)
    end = job.wait_for_hand_on(1)
    assert end["reason"] in ("USR1", "TERM")
    assert job.wait_for_start(2) == end["step"] == job.events("requeued")[0]["step"]
    check(job, whole, restarts=1)


def test_time_limit(lab, whole):
    job = lab.submit("limit", steps=STEPS, profile=profile(time="3", signal_lead_s=60), **slow(2))
    check(job, whole, restarts=None)
    ends = job.events("end")
    assert len(ends) > 1
    assert [e["reason"] for e in ends[:-1]] == ["USR1"] * (len(ends) - 1)


def test_node_killed(lab, whole):
    job = lab.submit("node", steps=STEPS, **slow(0.1))
    job.wait_for_start(1)
    job.wait_for_step(30)
    lab.cluster.tool("kill-node", "node2")
    wait_for(
        lambda: lab.cluster.job(job.id)["JobState"] == "PENDING",
        seconds=120,
        what="the job of a dead node waits",
    )
    reached = job.step()
    lab.cluster.tool("start-node", "node2")
    assert reached - 20 <= job.wait_for_start(2) <= reached
    check(job, whole, restarts=1)


def test_rank_killed(lab, whole):
    job = lab.submit("rank", steps=STEPS, **slow(0.1))
    job.wait_for_start(1)
    job.wait_for_step(30)
    job.kill_rank(1)
    job.wait_for_hand_on(1)
    assert job.step() - 20 <= job.wait_for_start(2) <= job.step()
    check(job, whole, restarts=1)


def test_stopped_rank_is_named_within_a_minute_and_handed_on(lab, whole, capsys):
    job = lab.submit("frozen", steps=STEPS, run__stall_minutes=1.2, **slow(0.1))
    job.wait_for_start(1)
    job.wait_for_step(10)
    root = str(job.run.path.parent.parent)

    def shown():
        capsys.readouterr()
        assert run_in_process("ps", "--root", root, "tiny") == 0
        return next(line for line in capsys.readouterr().out.splitlines() if "frozen" in line)

    assert "no step" not in shown()
    os.kill(job.pids()[1], signal.SIGSTOP)
    stopped = time.monotonic()
    line = wait_for(
        lambda: line if "no step" in (line := shown()) else "", seconds=60, what="named"
    )
    print(f"after {time.monotonic() - stopped:.0f} s: {line}")
    assert "rank 1 on node2: no step for" in line
    assert "not heard of" in line
    job.wait_for_hand_on(1)
    print(f"handed on after {time.monotonic() - stopped:.0f} s")
    assert "stalled: rank 1 on node2: no step for" in job.events("requeued")[0]["reason"]
    (stacks,) = (job.run.path / "stalls").glob("*rank0.txt")
    assert "training_step" in stacks.read_text() or "all_reduce" in stacks.read_text()
    assert "stacks of rank 0" in job.log()
    check(job, whole, restarts=1)


def test_signal_during_imports(lab, whole):
    job = lab.submit("imports", steps=STEPS)
    wait_for(lambda: len(job.pids()) == 2, seconds=60, what="both ranks")
    time.sleep(1)
    job.send("USR1")
    end = job.wait_for_hand_on(1)
    assert (end["step"], end["hand_on"], end["reason"]) == (0, True, "USR1")
    assert job.events("requeued")[0]["stuck"] == 1
    assert job.events("start") == []
    check(job, whole, restarts=0)


def test_killed_while_a_checkpoint_is_saved(lab, whole):
    job = lab.submit("saving", steps=STEPS, **slow(0.1), checkpoint={"every_n_steps": 1, "keep": 2})
    job.wait_for_start(1)
    job.wait_for_step(10)
    pid = job.pids()[0]
    end = time.monotonic() + 60
    while not (parts := list(job.run.checkpoints.glob(".*.part"))):
        assert time.monotonic() < end
    os.kill(pid, 9)
    assert parts
    left = [path.exists() for path in parts]
    reached = job.step()
    job.wait_for_hand_on(1)
    print("half a file was left:", left)
    assert reached - 1 <= job.wait_for_start(2) <= reached + 1
    check(job, whole, restarts=1)


def test_newest_checkpoint_cut_in_half(lab, whole):
    job = lab.submit("cut", steps=STEPS, **slow(0.1))
    job.wait_for_start(1)
    job.wait_for_step(30)
    job.send("USR1")
    left_at = job.wait_for_hand_on(1)["step"]
    newest = job.run.newest_checkpoint()
    assert newest.name == f"step-{left_at:08d}.ckpt"
    os.truncate(newest, newest.stat().st_size // 2)
    assert job.wait_for_start(2) == 20 * ((left_at - 1) // 20)
    assert newest.name in job.log()
    assert "going on from" in job.log()
    (newest.parent / f".{newest.name}.damaged").unlink()
    check(job, whole, restarts=1)


def test_job_that_makes_no_progress(lab, capsys):
    job = lab.submit(
        "stuck",
        steps=STEPS,
        nodes=1,
        trainer__callbacks=[{"class_path": f"{CALLBACKS}.Die", "init_args": {"step": 3}}],
    )
    job.wait_for_end("FAILED", seconds=900)
    # Twice on one node; the third start shows that another one is no better.
    starts = [e["node"] for e in job.attempts().events if e["event"] == "start"]
    assert (starts[0], starts[1] != starts[2]) == (starts[1], True)
    assert "no progress beyond step 0 in 3 starts in a row" in job.attempts().problem
    assert "killed by signal 9" in job.attempts().problem
    assert show("job", job.id)["ExitCode"] == "137:0"
    capsys.readouterr()
    assert run_in_process("ps", "--root", str(job.run.path.parent.parent)) == 0
    said = " ".join(capsys.readouterr().out.split())  # the last column, over several lines
    assert "tiny/stuck failed" in said and "no progress beyond step 0 in 3 starts" in said, said


def test_job_whose_settings_are_wrong_is_not_tried_again(lab):
    job = lab.submit("wrong", steps=STEPS, nodes=1, ema={"decay": 7})
    job.wait_for_end("FAILED")
    assert not job.attempts().hand_ons
    assert "setting is wrong" in job.attempts().problem or "decay" in job.attempts().problem


def test_another_job_goes_on_where_preemption_cancels(lab, whole):
    job = lab.submit(
        "resubmit", steps=STEPS, **slow(0.1), profile=profile(on_preemption="resubmit")
    )
    job.wait_for_start(1)
    job.wait_for_step(10)
    job.send("USR1")
    end = job.wait_for_hand_on(1)
    job.wait_for_end("COMPLETED")
    (event,) = job.events("resubmitted")
    assert event["job"] != job.id
    job.id = event["job"]
    assert job.wait_for_start(2) == end["step"]
    check(job, whole, restarts=1)


def test_cancelled_run_stays_cancelled(lab):
    job = lab.submit("cancelled", steps=STEPS, nodes=1)
    job.wait_for_start(1)
    job.wait_for_step(5)
    job.run.cancelled.touch()
    job.send("TERM")
    job.wait_for_end("COMPLETED")
    assert not job.attempts().hand_ons
    assert job.events("end")[-1]["reason"] == "TERM"


def profile(**settings):
    return Profile(**{"time": "30", "environment": {"OMP_NUM_THREADS": 1}, **settings})
