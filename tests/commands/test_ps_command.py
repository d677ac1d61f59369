"""`mmlight ps`: whose runs, where, again and again."""

import getpass
import json
import os
import time

import pytest

from mmlight.__main__ import main
from mmlight.runs.run.heartbeats import Beat, write_beat
from mmlight.runs.run.submission import Submission
from mmlight.runs.slurm import client


def make_run(root, name, *, user=None, partition=None, url=None):
    path = root / name / "1"
    path.mkdir(parents=True)
    (path / "metrics.jsonl").write_text(json.dumps({"step": 3, "train/loss": 1.0}) + "\n")
    if user:
        submitted = time.time()
        Submission("1", name, "x.yaml", ("12",), submitted, user, 1, 0, 1, "c.yaml", ".").write(
            path
        )
    if partition:
        (path / "provenance.json").write_text(json.dumps({"job": {"partition": partition}}))
    if url:
        (path / "wandb-url").write_text(f"{url}\n")


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("LOGNAME", "ada")
    monkeypatch.setenv("PATH", "/nowhere")  # without SLURM
    make_run(
        tmp_path, "mine", user="ada", partition="gpu", url="https://w.example/runs/" + "x" * 90
    )
    make_run(tmp_path, "hers", user="eve", partition="long")
    make_run(tmp_path, "local")
    return tmp_path


def shown(root, capsys, *arguments):
    assert main(["ps", "--root", str(root), *arguments]) == 0
    text = capsys.readouterr().out
    return text, {name for name in ("mine", "hers", "local") if f"{name}/1" in text}


def test_runs_are_filtered_by_user_and_partition(root, capsys):
    assert shown(root, capsys)[1] == {"mine", "hers", "local"}
    assert shown(root, capsys, "--me")[1] == {"mine"}
    assert shown(root, capsys, "--user", "eve")[1] == {"hers"}
    assert shown(root, capsys, "--user", (root / "local/1").owner())[1] == {"local"}
    assert shown(root, capsys, "--partition", "gpu")[1] == {"mine"}
    text, found = shown(root, capsys, "--me", "--partition", "long")
    assert not found
    assert text.startswith(f"no run of ada in partition long in {root} is active")


def test_the_address_at_wandb_is_shown_whole(root, capsys):
    assert "https://" not in shown(root, capsys)[0]
    assert "https://w.example/runs/" + "x" * 90 in shown(root, capsys, "--wandb")[0]


def test_watching_shows_it_again_until_it_is_interrupted(root, capsys, monkeypatch):
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 2:
            raise KeyboardInterrupt
        make_run(root, "later")

    monkeypatch.setattr(time, "sleep", sleep)
    text, _ = shown(root, capsys, "--watch", "3")
    assert slept == [3, 3]
    assert text.count("mine/1") == 2 and text.count("later/1") == 1 and "every 3 s" in text


@pytest.mark.parametrize("seconds", ["0", "nan", "1e9", "soon"])
def test_watching_too_often_is_refused(root, capsys, seconds):
    with pytest.raises(SystemExit):
        main(["ps", "--watch", seconds])
    assert "--watch" in capsys.readouterr().err


@pytest.mark.integration
def test_slurm_tells_the_partition_of_running_jobs_and_a_stopped_rank(slurm, tmp_path, capsys):
    given = ("--parsable", "-p", "high", "--wrap", "sleep 60", "-o", "/dev/null")
    job = client.run("sbatch", *given).strip()
    slurm.wait(job, "RUNNING")
    path = tmp_path / "a/1"
    about = ("1", "a", "x.yaml", (job,), time.time(), getpass.getuser(), 1, 0, 1, "c.yaml", ".")
    Submission(*about).write(path)
    (path / "metrics.jsonl").write_text("{}\n")
    of = {"world": 1, "host": "node1", "pid": 1, "step": 3, "passed": 7, "doing": "in a step"}
    write_beat(path, Beat(rank=0, **of, still_s=80, longest_s=1, every_s=5))
    try:
        for partition, found in (("high", True), ("low", False)):
            assert main(["ps", "--root", str(tmp_path), "--me", "--partition", partition]) == 0
            text = capsys.readouterr().out
            assert ("a/1" in text) == found
            assert ("rank 0 on node1: no step for 8" in text) == found
    finally:
        client.cancel([job])


def test_of_thousands_that_ended_today_the_last_are_shown(root, capsys, monkeypatch):
    for number in range(203):
        run = root / "many" / f"run{number:03d}"
        run.mkdir(parents=True)
        (run / "summary.json").write_text(json.dumps({"status": "finished", "final": {}}))
        stamp = time.time() - 1000 + number
        os.utime(run / "summary.json", (stamp, stamp))
        os.utime(run, (stamp, stamp))
    assert main(["ps", "--root", str(root), "many"]) == 0
    told = capsys.readouterr()
    assert "run202" in told.out and "run003" in told.out and "run002" not in told.out
    assert "3 more runs ended within a day: --all shows them" in told.err
    assert main(["ps", "--root", str(root), "many", "--all"]) == 0
    told = capsys.readouterr()
    assert "run000" in told.out and "more runs" not in told.err
