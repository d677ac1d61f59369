"""The lock of a run's folder: one process holds it, and a dead one does not."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys

import cli_data
import pytest

from mmlight.errors import UserError
from mmlight.runs.run import lock
from mmlight.runs.run.attempts import ATTEMPTS, append_event
from mmlight.runs.run.folder import Run
from mmlight.runs.run.lock import LOCK, RunLock
from mmlight.runs.run.state import state_of

HOLD = """
import sys, time
from pathlib import Path
from mmlight.runs.run.lock import RunLock
held = RunLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "tiny" / "a"
    path.mkdir(parents=True)
    return path


@pytest.fixture
def holder(run):
    """Start processes that hold the lock, and end them."""
    started = []

    def start(**environment):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(run)],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_second_process_is_refused_in_one_line_that_names_the_first(run, holder):
    first = holder()
    with pytest.raises(UserError) as refused:
        RunLock(run)
    said = str(refused.value)
    assert f"run tiny/a is being written by process {first.pid} on {socket.gethostname()}" in said
    assert "--run.id" in said and "\n" not in said


@pytest.mark.parametrize("more", [(), ("--ckpt_path", "auto")])
def test_second_start_on_a_run_ends_in_one_line_and_touches_nothing(
    run, holder, capsys, tmp_path, more
):
    holder()
    part = run / "checkpoints" / ".step-00000002.ckpt.ab12.part"
    part.parent.mkdir()
    part.write_bytes(b"what the first one writes")
    values = cli_data.experiment(cli_data.write_data(tmp_path / "data"), tmp_path)
    path = cli_data.write_yaml(tmp_path / "tiny.yaml", values)
    assert cli_data.run_in_process("fit", "-c", path, "--run.id", "a", *more) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("mmlight: run tiny/a is being written by process")
    assert "\n" not in said
    assert part.exists()


def test_second_start_of_a_sweep_ends_in_one_line(tmp_path, capsys):
    (tmp_path / "tiny.yaml").write_text("seed_everything: 0\n")
    sweep = {"experiment": "tiny.yaml", "parameters": {"seed_everything": [1, 2]}}
    sweep |= {"metric": "val/loss", "searcher": "grid"}
    path = cli_data.write_yaml(tmp_path / "many.yaml", sweep)
    folder = tmp_path / "runs" / "many"
    folder.mkdir(parents=True)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    root = tmp_path / "runs"
    assert cli_data.run_in_process("sweep", "-c", path, "--root", root) == 2
    process.kill()
    process.communicate()
    (said,) = capsys.readouterr().err.splitlines()
    assert f"being written by process {process.pid}" in said and "another --name" in said
    assert not list(folder.glob("trial-*"))


def test_lock_of_a_killed_process_holds_nobody_up(run, holder):
    first = holder()
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert (run / LOCK).exists()
    append_event(run, "start", step=0)
    assert str(state_of(Run(run), None)) == "stopped (broken off)"
    (run / ATTEMPTS).unlink()
    held = RunLock(run)
    assert json.loads((run / LOCK).read_text())["pid"] == os.getpid()
    held.release()
    assert list(run.iterdir()) == []


def test_released_lock_is_free(run, holder):
    RunLock(run).release()
    holder()
    append_event(run, "start", step=0)
    assert state_of(Run(run), None).word == "running"


def test_job_that_is_requeued_takes_the_lock_of_its_last_start(run, holder, monkeypatch):
    """Its node may have failed, and the server of the files may not know."""
    holder(SLURM_JOB_ID="7", SLURM_RESTART_COUNT="1")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    RunLock(run)
    assert json.loads((run / LOCK).read_text())["restart"] == 2


def test_another_job_waits_and_is_then_refused(run, holder, monkeypatch):
    holder(SLURM_JOB_ID="7", SLURM_RESTART_COUNT="1")
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    monkeypatch.setattr(lock, "_PATIENCE_S", 0.3)
    with pytest.raises(UserError, match="job 7"):
        RunLock(run)


@pytest.fixture
def without_locks(monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)


def test_without_locks_in_the_file_system_a_living_process_is_seen(run, holder, without_locks):
    first = holder()
    with pytest.raises(UserError, match=f"process {first.pid}"):
        RunLock(run)
    first.kill()
    first.wait()
    RunLock(run)


def test_without_locks_a_number_given_again_or_another_host_holds_nobody_up(run, without_locks):
    me = {"pid": 1, "host": socket.gethostname(), "began": -1}
    (run / LOCK).write_text(json.dumps(me) + "\n")
    RunLock(run).release()
    (run / LOCK).write_text(json.dumps(me | {"host": "elsewhere"}) + "\n")
    RunLock(run).release()


@pytest.mark.parametrize("left", [b"", b"\0\0\0", b"[1]\n", b'{"pid": [], "job": "7"}\n'])
def test_damaged_record_is_no_obstacle(run, left):
    (run / LOCK).write_bytes(left)
    RunLock(run).release()
