"""What differs from site to site and from user to user, on a real cluster."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import cli_data
import git_data
import pytest
import slurm_cluster
import yaml
from integration.preemption import Lab
from slurm_cluster import wait_for

from mmlight.runs.run.attempts import read_attempts
from mmlight.runs.run.folder import Run
from mmlight.runs.run.state import jobs_of, state_of
from mmlight.runs.slurm import client
from mmlight.runs.slurm.profile import Profile

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1500)]

NET = """
from mmlight.encoders.timm_image import TimmImage
class Mine(TimmImage):
    print("MINE IS", {number}, flush=True)
"""
SLOW = {
    "class_path": "integration.preemption_callbacks.Slow",
    "init_args": {"seconds": 0.3},
}


@pytest.fixture
def lab(tmp_path, slurm, monkeypatch):
    folder = tmp_path / "my lab"
    data = cli_data.write_data(folder / "data")
    values = cli_data.changed(
        cli_data.experiment(data, Path("runs")),
        {"trainer.max_steps": 4, "model.init_args.towers.audio": None},
    )
    cli_data.write_yaml(folder / "tiny.yaml", values)
    (folder / "site.yaml").write_text(
        "time: 60\nsignal_lead_s: 30\nmax_nodes: 2\nmemory_per_node: 1500M\npartition: high\n"
        "environment: {OMP_NUM_THREADS: 1}\n"
    )
    monkeypatch.chdir(folder)
    yield folder
    if left := [job.id for job in client.queue().values() if job.is_active]:
        client.cancel(left)


@pytest.fixture
def submit(lab, capsys):
    def run(*more, file="tiny.yaml"):
        arguments = ("submit", "-c", file, "--cluster", "site.yaml", *more)
        code = cli_data.run_in_process(*arguments)
        said = capsys.readouterr()
        assert code == 0, said.err
        found = re.search(r"^(\S+): job (\d+),", said.out, re.M)
        return lab / "runs" / found[1], found[2], said.out + said.err

    return run


def test_a_package_of_ones_own_trains_as_it_was_submitted(lab, slurm):
    own = git_data.make_repository(lab / "own", {"src/myproj/net.py": NET.format(number=1)})
    (own / "src/myproj/net.py").write_text(NET.format(number=2))
    # Another class takes nothing over of what is extended.
    tiny = yaml.safe_load((lab / "tiny.yaml").read_text())
    mine = tiny["model"]["init_args"]["towers"]["image"]
    mine["encoder"] = mine["encoder"] | {"class_path": "myproj.net.Mine"}
    changes = {"model": {"init_args": {"towers": {"image": mine}}}}
    (own / "own.yaml").write_text(json.dumps({"extends": [f"{lab}/tiny.yaml"], **changes}))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mmlight", "submit", "-c", "own/own.yaml"),
            *("--cluster", "site.yaml", "--cluster.sbatch", "[--hold]"),
        ],
        env=os.environ | {"PYTHONPATH": str(own / "src")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    commit = git_data.git(own, "rev-parse", "HEAD").strip()
    assert f"own {commit[:12]} and what is uncommitted" in done.stdout
    label, job = re.search(r"^(\S+): job (\d+),", done.stdout, re.M).groups()
    (own / "src/myproj/net.py").write_text("raise SystemExit('edited while it waited')")
    client.run("scontrol", "release", job)
    slurm.wait(job, "COMPLETED", seconds=400)
    run = Run(lab / "runs" / label)
    assert "MINE IS 2" in (run.path / f"slurm/{job}.out").read_text()
    (recorded,) = json.loads(run.provenance_json.read_text())["own_code"]
    assert (recorded["commit"], recorded["top"]) == (commit, str(own))
    assert '+    print("MINE IS", 2, flush=True)' in run.own_patch(0).read_text()


def test_a_setup_that_fails_ends_the_run_with_its_line(submit, slurm):
    run, job, _ = submit("--cluster.setup", "['source /opt/nosuch/env.sh']")
    told = slurm.wait(job, "FAILED")
    assert told["ExitCode"] == "2:0" and told["Restarts"] == "0"
    state = state_of(Run(run), jobs_of([Run(run)]))
    assert (state.word, state.why) == (
        "failed",
        "setup failed with exit code 1: source /opt/nosuch/env.sh",
    )


def test_the_profile_beats_the_shell(submit, slurm, monkeypatch):
    monkeypatch.setenv("SBATCH_PARTITION", "low")
    monkeypatch.setenv("SRUN_OVERLAP", "1")
    _, job, said = submit("--cluster.sbatch", "[--hold]")
    assert slurm.job(job)["Partition"] == "high"
    assert (
        "SBATCH_PARTITION=low of the shell is overridden by the profile's partition: high" in said
    )
    assert "SRUN_OVERLAP=1 of the shell is left out" in said


def test_a_stopped_run_of_a_script_of_ones_own_is_not_done(lab, slurm):
    tests = Path(__file__).parents[1]
    values = cli_data.changed(
        yaml.safe_load(Path("tiny.yaml").read_text()),
        {"trainer.callbacks": [SLOW], "trainer.max_steps": 400},
    )
    cli_data.write_yaml(lab / "slow.yaml", values)
    (lab / "own.sh").write_text(
        "#!/bin/bash\n"
        f"export PYTHONPATH={tests.parent}:{tests} OMP_NUM_THREADS=1\n"
        f"srun {sys.executable} -m mmlight fit -c slow.yaml --run.id one\n"
    )
    options = ["-n1", "--ntasks-per-node=1", "-phigh", "-t9", "-oown.out"]
    job = client.submit(lab / "own.sh", options=options)
    after = client.submit(
        lab / "own.sh",
        options=[*options, f"--dependency=afterok:{job}", "--kill-on-invalid-dep=no"],
    )
    run = lab / "runs/slow/one"
    wait_for(lambda: Run(run).step >= 3, seconds=400, what="three steps")
    subprocess.run(["scancel", "--signal=USR1", job], check=True)
    assert slurm.wait(job, "FAILED", "COMPLETED")["ExitCode"] == "75:0"
    assert read_attempts(run).events[-1]["hand_on"]
    assert "exit code 75" in (lab / "own.out").read_text()
    wait_for(lambda: "Never" in slurm.job(after)["Reason"], seconds=60, what="it never begins")


def test_a_run_waits_for_another_over_its_jobs_and_is_made_longer(lab, submit, slurm, capsys):
    first, one, _ = submit("--cluster.sbatch", "[--hold]", "--cluster.on_preemption", "resubmit")
    from_run = ("--model.init_args.towers.image", f"{{from_run: {first}}}")
    second, two, said = submit("--after", first.name, "--seed_everything=1", *from_run)
    assert f"it begins when tiny/{first.name} has finished" in said
    # The first one goes on in another job.
    client.cancel([one])
    slurm.wait(one, "CANCELLED")
    assert cli_data.run_in_process("resume", first.name, "--cluster.sbatch", "[]") == 0
    new = Run(first).jobs[-1]
    assert new != one and f"afterok:{new}" in slurm.job(two)["Dependency"]
    slurm.wait(two, "COMPLETED", "FAILED", seconds=600)
    ends = [read_attempts(run).events[-1] for run in (first, second)]
    assert [end["reason"] for end in ends] == ["finished"] * 2, ends
    assert ends[0]["time"] < read_attempts(second).events[0]["time"]

    assert cli_data.run_in_process("resume", first.name, "--trainer.max_steps=3") == 2
    assert "3 is not more than 4" in capsys.readouterr().err
    assert cli_data.run_in_process("resume", first.name, "--trainer.max_steps=6") == 0
    slurm.wait(Run(first).jobs[-1], "COMPLETED", "FAILED", seconds=400)
    assert sorted(cli_data.losses(first)) == [1, 2, 3, 4, 5, 6]
    assert read_attempts(first).finished


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    with slurm_cluster.cluster(folder, options=("--cpus", "2", "--nodes", "3")) as cluster:
        yield Lab(cluster, tmp_path_factory.mktemp("lab"))


def test_a_node_that_is_killed_twice_is_left_out(three):
    """Before any checkpoint, each time: that would be no progress, were it the run's own fault."""
    never = {"every_n_steps": 10000}
    slow = [{**SLOW, "init_args": {"seconds": 0.5}}]
    profile = Profile(time="30", environment={"OMP_NUM_THREADS": 1})
    job = three.submit(
        "killed",
        steps=150,
        nodes=1,
        options=("-wnode2",),
        profile=profile,
        checkpoint=never,
        trainer__callbacks=slow,
    )
    for number in (1, 2):
        job.wait_for_start(number)
        three.cluster.tool("kill-node", "node2")
        wait_for(
            lambda: three.cluster.job(job.id)["JobState"] == "PENDING",
            seconds=120,
            what="the job of a dead node waits",
        )
        if number == 2:
            client.run("scontrol", "update", f"JobId={job.id}", "ReqNodeList=")
        three.cluster.tool("start-node", "node2")
    job.wait_for_start(3)
    lost = job.events("requeued")
    assert [(e["node"], e["stuck"]) for e in lost] == [("node2", 0), ("node2", 0)], lost
    assert lost[-1]["exclude"] == ["node2"]
    job.wait_for_end("COMPLETED")


def test_a_node_on_which_processes_always_die_is_left_out(three):
    setup = "[ $SLURM_JOB_NODELIST != node1 ] || export DIE=1"
    profile = Profile(time="30", environment={"OMP_NUM_THREADS": 1}, setup=[setup])
    die = [
        {"class_path": "integration.preemption_callbacks.DieWhere", "init_args": {"name": "DIE"}}
    ]
    job = three.submit("bad", steps=6, nodes=1, profile=profile, trainer__callbacks=die)
    job.wait_for_end("COMPLETED")
    hand_ons = job.events("requeued")
    assert [(e["node"], e["exclude"]) for e in hand_ons] == [
        ("node1", []),
        ("node1", ["node1"]),
    ], job.log()
    assert time.time() - hand_ons[0]["time"] < 300
