"""Experiments launched on a real SLURM: two virtual nodes, one process on each."""

import json
import re
from pathlib import Path

import cli_data
import pytest
from slurm_cluster import wait_for

from mmlight.runs.run.attempts import read_attempts
from mmlight.runs.run.folder import Run
from mmlight.runs.run.state import jobs_of, state_of
from mmlight.runs.slurm import client

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1500)]


@pytest.fixture
def lab(tmp_path, slurm):
    """A folder, with a blank in its name, that holds data, an experiment and a profile."""
    folder = tmp_path / "my lab"
    data = cli_data.write_data(folder / "data")
    values = cli_data.changed(
        cli_data.experiment(data, Path("runs")),
        {"trainer.num_nodes": 2, "trainer.strategy": "ddp", "trainer.max_steps": 8},
    )
    cli_data.write_yaml(folder / "tiny.yaml", values | {"checkpoint": {"every_n_steps": 1}})
    (folder / "site.yaml").write_text(
        "time: 60\nsignal_lead_s: 30\nmax_nodes: 2\nmemory_per_node: 1500M\n"
        "environment: {OMP_NUM_THREADS: 1}\n"
    )
    yield folder
    # What a failed test leaves behind would take the processors of the next one.
    if left := [job.id for job in client.queue().values() if job.is_active]:
        client.cancel(left)


@pytest.fixture
def mmlight(lab, monkeypatch, capsys):
    """Runs a command as a user in the lab would; returns what it prints."""
    monkeypatch.chdir(lab)

    def run(*arguments, code=0):
        capsys.readouterr()
        found = cli_data.run_in_process(*arguments)
        said = capsys.readouterr()
        assert found == code, said.out + said.err
        return said.out + said.err

    return run


@pytest.fixture
def submit(lab, mmlight):
    """Submits the experiment; returns its run's folder, its job and what was said."""

    def run(*more, code=0):
        said = mmlight("submit", "-c", "tiny.yaml", "--cluster", "site.yaml", *more, code=code)
        found = re.search(r"^(\S+): job (\d+),", said, re.M)
        return (lab / "runs" / found[1], found[2], said) if found else (None, None, said)

    return run


def state(path):
    run = Run(path)
    return state_of(run, jobs_of([run]))


def test_two_nodes_train_to_the_end(submit, mmlight, slurm):
    run, job, said = submit()
    assert "2 nodes, 1 process each" in said
    assert "the same experiment was launched before" in submit(code=2)[2]
    # Where it runs does not make another experiment, and another seed does.
    assert "launched before" in submit("--data.init_args.num_workers=1", code=2)[2]
    _, _, dry = submit("--seed_everything=1", "--dry-run")
    assert "launched before" not in dry
    assert "to start at" in dry

    followed = mmlight("logs", "-f", f"{run.parent.name}/{run.name[:5]}")
    assert "train 8/8" in followed
    told = slurm.wait(job, "COMPLETED")
    assert told["ExitCode"] == "0:0"
    assert told["NumNodes"] == "2"
    assert state(run).word == "finished"
    assert sorted(cli_data.losses(run)) == list(range(1, 9))
    assert "finished" in mmlight("ps")
    provenance = json.loads((run / "provenance.json").read_text())
    assert provenance["num_devices"] == 2
    assert len(provenance["git"]["commit"]) == 40
    assert "nothing to resume" in mmlight("resume", run.name, code=2)


def test_again_launches_another_run_of_the_same(submit, mmlight, slurm):
    run, first, _ = submit("--cluster.sbatch=[--hold]")
    assert state(run).word == "waiting"
    again, second, _ = submit("--again", "--cluster.sbatch=[--hold]")
    assert again.name == f"{run.name}-2"
    assert mmlight("ps").count("waiting") == 2
    mmlight("cancel", run.name + "-2", run)
    assert [state(path).word for path in (run, again)] == ["cancelled", "cancelled"]
    for job in (first, second):
        assert slurm.wait(job, "CANCELLED")


def test_cancelled_run_saves_and_resumes_where_it_was(submit, mmlight, slurm):
    run, job, _ = submit("--trainer.max_steps=30")
    wait_for(lambda: Run(run).step >= 3, seconds=600, what="three steps made")
    assert f"cancelled job {job}" in mmlight("cancel", run.name)
    slurm.wait(job, "CANCELLED")
    assert state(run).word == "cancelled"
    made = Run(run).step
    assert made < 30
    assert "has ended already: cancelled" in mmlight("cancel", run.name)
    # Another learning rate is another experiment; another number of nodes is not.
    rate = "--model.init_args.optimizer.lr=0.1"
    assert "another experiment" in mmlight("resume", run.name, rate, code=2)
    said = mmlight("resume", run.name, "--trainer.num_nodes=1")
    second = re.search(r"job (\d+), 1 node, 1 process", said)[1]
    assert second != job
    slurm.wait(second, "COMPLETED", seconds=600)
    starts = [e["step"] for e in read_attempts(run).events if e["event"] == "start"]
    assert starts[0] == 0
    assert made - 1 <= starts[1] <= made + 1
    assert sorted(cli_data.losses(run)) == list(range(1, 31))
    logs = [(run / f"slurm/{number}.out").read_text() for number in (job, second)]
    assert mmlight("logs", run) == "".join(logs)
    assert "train 30/30" in logs[1]


def test_a_setting_that_only_training_finds_wrong_fails_the_job(submit, mmlight, slurm):
    run, job, _ = submit("--data.init_args.train.shards=nowhere")
    slurm.wait(job, "FAILED", seconds=600)
    found = state(run)
    assert found.word == "failed"
    assert "nowhere" in found.why
    assert "nowhere" in mmlight("ps")


def test_what_slurm_refuses_leaves_no_run_behind(lab, submit):
    said = submit("--cluster.partition=nowhere", code=2)[2]
    assert "invalid partition" in said
    assert not list((lab / "runs").glob("tiny/*"))
