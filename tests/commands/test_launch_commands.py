"""submit, ps, logs, cancel and resume, where SLURM is not on the machine."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, replace

import cli_data
import pytest

from mmlight.__main__ import main
from mmlight.commands.logs import Printer, follow
from mmlight.runs.run.attempts import append_event
from mmlight.runs.run.logs import last_words
from mmlight.runs.run.state import State
from mmlight.runs.run.submission import Submission


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An experiment and a cluster's profile, on a machine without SLURM."""
    monkeypatch.chdir(tmp_path)
    kept = tmp_path / "bin"
    kept.mkdir()
    for command in ("git", "bash"):
        (kept / command).symlink_to(shutil.which(command))
    monkeypatch.setenv("PATH", str(kept))
    values = cli_data.experiment(tmp_path / "data", tmp_path / "my runs")
    cli_data.write_yaml(tmp_path / "tiny.yaml", values)
    (tmp_path / "site.yaml").write_text("partition: gpu\ngpus_per_node: 4\ncpus_per_task: 8\n")
    return tmp_path


GIVEN = Submission("ab12", "tiny", "s.yaml", ("7",), time.time(), "me", 1, 0, 1, "c.yaml", ".")
SUBMISSION = json.dumps(asdict(GIVEN))


def launched(root):
    path = root / "tiny/ab12"
    path.mkdir(parents=True)
    GIVEN.write(path)
    (path / "submitted.yaml").write_text("{}\n")
    return path


def test_dry_run_prints_a_script_that_shellcheck_accepts(here, capsys):
    shellcheck = shutil.which("shellcheck", path=os.defpath)
    cluster = ("--cluster", "site.yaml", "--cluster.time=12:00:00")
    change = ("--trainer.accelerator", "auto", "--trainer.devices", "4")
    assert main(["submit", "-c", "tiny.yaml", *cluster, *change, "--dry-run"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("#!/bin/bash\n")
    for option in ("--ntasks-per-node=4", "--gres=gpu:4", "--time=12:00:00", "--partition=gpu"):
        assert f"\n#SBATCH {option}\n" in said.out
    assert "tiny/" in said.err
    assert "SLURM is not on this machine" in said.err
    assert not (here / "my runs").exists()
    if shellcheck:
        done = subprocess.run([shellcheck, "-"], input=said.out, text=True, capture_output=True)
        assert done.returncode == 0, done.stdout


def test_submit_refuses_what_the_cluster_lacks(here, capsys):
    command = ["submit", "-c", "tiny.yaml", "--cluster", "site.yaml", "--dry-run"]
    assert main([*command, "--trainer.accelerator", "gpu", "--trainer.devices", "8"]) == 2
    assert "use --trainer.devices 4 --trainer.num_nodes 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["submit", "-c", "tiny.yaml", "--cluster", "site.yaml"], 2),
        (["cancel", "tiny/ab12"], 2),
        (["resume", "ab12"], 2),
        (["ps"], 0),
    ],
)
def test_each_command_says_that_slurm_is_missing(here, capsys, command, code):
    launched(here / "runs")
    assert main(command) == code
    said = capsys.readouterr().err
    assert "SLURM is not on this machine" in said
    assert len(said.splitlines()) == 1


def test_resume_without_slurm_says_how_to_go_on_here(here, capsys):
    launched(here / "runs")
    main(["resume", "ab"])
    said = capsys.readouterr().err
    assert "fit -c runs/tiny/ab12/submitted.yaml --run.root runs --run.name tiny" in said


def test_ps_tells_what_the_folders_say(here, capsys):
    path = launched(here / "runs")
    rows = [{"step": s, "wall_s": s, "train/loss": 1 / s} for s in (1, 2, 4)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    append_event(path, "start", step=0, max_steps=10)
    append_event(path, "requeued", step=2)
    append_event(path, "start", step=2, max_steps=10)
    append_event(path, "gave up", reason="no progress beyond step [2]")
    assert main(["ps"]) == 0
    out = capsys.readouterr().out
    for part in ("tiny/ab12", "failed", "4/10", " 1 ", "loss 0.25", "no progress beyond step [2]"):
        assert part in " ".join(out.split()) or part in out
    assert main(["ps", "other"]) == 0
    assert "no run in runs of other" in capsys.readouterr().out


@pytest.mark.parametrize("columns", [None, 40, 80])
def test_ps_cuts_nothing_off(here, capsys, monkeypatch, columns):
    path = launched(here / "runs")
    row = {"step": 140, "wall_s": 1, "train/loss": 0.25, "val/loss": 0.5}
    (path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    append_event(path, "start", step=0, max_steps=140)
    append_event(path, "start", step=2, max_steps=140)
    reason = "no progress beyond step 0 in 2 starts in a row; the last: killed by signal 9"
    append_event(path, "gave up", reason=reason)
    if columns:
        monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
        monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["ps"]) == 0
    out = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert "140/140" in out and max(map(len, out.splitlines())) <= (80 if columns else 1000)
    words = out.split()
    assert all(word in words for word in [*reason.split(), "0.25,", "val/loss", "0.5"])
    assert (reason in out) == (columns is None)


def test_ps_leaves_old_runs_out(here, capsys):
    path = launched(here / "runs")
    append_event(path, "end", step=3, reason="finished")
    os.utime(path / "attempts.jsonl", (time.time() - 2 * 86400,) * 2)
    main(["ps"])
    assert "tiny/ab12" not in capsys.readouterr().out
    main(["ps", "--all"])
    assert "tiny/ab12" in capsys.readouterr().out


def test_logs_prints_all_restarts_or_the_last_lines(here, capsys):
    path = launched(here / "runs")
    (path / "slurm").mkdir()
    (path / "slurm/7.out").write_text("one\ntwo\n")
    append_event(path, "resubmitted", job="10")
    (path / "slurm/10.out").write_text("three\nfour\n")
    assert main(["logs", "ab12"]) == 0
    assert capsys.readouterr().out == "one\ntwo\nthree\nfour\n"
    assert main(["logs", "ab12", "-n", "1"]) == 0
    assert capsys.readouterr().out == "four\n"


def test_logs_of_a_silent_run_says_its_state(here, capsys):
    path = launched(here / "runs")
    append_event(path, "gave up", reason="no progress")
    assert main(["logs", "ab12"]) == 2
    assert "tiny/ab12 has printed nothing: it is failed (no progress)" in capsys.readouterr().err


def test_following_ends_with_the_run_and_drops_nothing(here, capsys):
    path = launched(here / "runs")
    (path / "slurm").mkdir()
    log = path / "slurm/7.out"
    states = iter([State("waiting", "Priority"), State("running"), State("finished")])

    def state():
        # A run says more before each of its states is seen; the last words included.
        found = next(states)
        with log.open("a") as file:
            file.write(f"before {found.word}\n")
        return found

    follow(Printer(path), state, poll_s=0.0, ask_s=0.0)
    said = capsys.readouterr()
    assert said.out == "before waiting\nbefore running\nbefore finished\n"
    assert said.err == "mmlight: waiting (Priority)\nmmlight: running\nmmlight: finished\n"


@pytest.mark.parametrize("command", ["logs", "cancel", "resume"])
def test_unknown_run_is_refused(here, capsys, monkeypatch, command):
    monkeypatch.setattr("mmlight.runs.slurm.client.is_here", lambda command="sbatch": True)
    launched(here / "runs")
    assert main([command, "zz"]) == 2
    assert "no run 'zz' in runs" in capsys.readouterr().err


def test_a_thousand_runs_are_shown_within_two_seconds(here):
    rows = [
        {"step": s, "epoch": 0, "samples": s, "wall_s": s, "train/loss": 1 / s}
        for s in range(1, 101)
    ]
    log = "".join(json.dumps(row) + "\n" for row in rows)
    event = json.dumps({"event": "end", "time": 1, "step": 100, "reason": "finished"})
    for number in range(1000):
        path = here / f"runs/e{number % 10}/{number:08x}"
        path.mkdir(parents=True)
        (path / "submission.json").write_text(SUBMISSION.replace("ab12", path.name))
        (path / "metrics.jsonl").write_text(log)
        (path / "attempts.jsonl").write_text(event + "\n")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-P", "-m", "mmlight", "ps", "--all"]
    done = subprocess.run(command, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.count("finished") == 1000
    # Processor time: what else runs on the machine does not count.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2


def test_logs_of_one_rank(here, capsys):
    path = launched(here / "runs")
    replace(GIVEN, tasks_per_node=2).write(path)
    at = "2026-01-31T12:00:00 "
    lines = [f"{at}0: a", f"{at}1: b", "mmlight: job 7 begins on n1", f"{at}1: c", f"{at}srun: d"]
    (path / "slurm").mkdir()
    (path / "slurm/7.out").write_text("\n".join(lines) + "\n")
    assert main(["logs", "tiny/ab12", "--rank", "1"]) == 0
    assert capsys.readouterr().out == f"{at}1: b\n{at}1: c\n"
    GIVEN.write(path)  # one process: all lines are its own
    assert main(["logs", "tiny/ab12", "--rank", "0"]) == 0
    assert capsys.readouterr().out == "\n".join(lines) + "\n"


def test_the_reason_of_a_failure_is_told_without_time_and_rank(tmp_path):
    log = tmp_path / "7.out"
    log.write_text("2026-01-31T12:00:00  3: mmlight: data.x: no such folder\n")
    assert last_words([log]) == "data.x: no such folder"
    log.write_text("2026-01-31T12:00:00 ValueError: wrong\n")
    assert last_words([log]) == "ValueError: wrong"
