"""A run that is killed and stopped three times is one run in W&B, with every row once."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import cli_data
import pytest
from wandb_recorder import recorder

from mmlight.runs.run.folder import Run
from mmlight.runs.run.metrics_log import AXES, read_rows
from mmlight.runs.wandb.file import count_rows

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]
STEPS = 48
# What is measured is not logged at the first step after a start.
MEASURED = ("_per_s", "_share", "_mb", "_ms")


@pytest.fixture
def server(tmp_path):
    with recorder(tmp_path / "server") as found:
        yield found


@pytest.fixture
def experiment(tmp_path):
    values = cli_data.experiment(cli_data.write_data(tmp_path / "data"), tmp_path / "runs")
    changes = {
        "trainer.max_steps": STEPS,
        "checkpoint": {"every_n_steps": 4},
        "run.tags": ["a paper"],
    }
    return cli_data.write_yaml(tmp_path / "tiny.yaml", cli_data.changed(values, changes))


def last_step(run: Path) -> int:
    try:
        return json.loads((run / "metrics.jsonl").read_text().split("\n")[-2])["step"]
    except (OSError, IndexError):
        return 0


def attempt(experiment, run, mode, server, *, at=None, how=None, down_at=None):
    """Train until step `at` is logged, then end the process as `how` says."""
    arguments = ["fit", "-c", experiment, "--run.wandb", mode, "--run.id", run.name]
    if Run(run).newest_checkpoint() is not None:
        arguments += ["--ckpt_path", "last"]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MMLIGHT_", "WANDB_"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "mmlight", *map(str, arguments)],
        env={
            **kept,
            **server.environment,
            "MMLIGHT_RUN_ID": run.name,
            "MMLIGHT_GUARD": "1",
            "OMP_NUM_THREADS": "1",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while at is not None and process.poll() is None and last_step(run) < at:
        if down_at is not None and last_step(run) >= down_at:
            server.is_down.touch()
        time.sleep(0.01)
    if how == "node lost":
        os.killpg(process.pid, signal.SIGKILL)
    elif how is not None:
        process.send_signal(how)
    _, said = process.communicate()
    if at is None:
        assert process.returncode == 0, said
    else:
        assert process.returncode == (0 if how == signal.SIGUSR1 else -signal.SIGKILL), said
        assert at <= last_step(run) < STEPS, said


def preempt(experiment, run, mode, server):
    attempt(experiment, run, mode, server, at=8, how="node lost")
    attempt(experiment, run, mode, server, at=17, how=signal.SIGUSR1)
    attempt(experiment, run, mode, server, at=28, how=signal.SIGKILL)
    attempt(experiment, run, mode, server)


def check(server, run):
    own = Run(run).wandb_id()
    assert list(server.runs()) == [own]
    told, rows = server.runs()[own], server.history(own)
    expected = read_rows(run / "metrics.jsonl")
    assert [row["_step"] for row in rows] == list(range(len(rows)))
    sent = Counter(
        (row["trainer/global_step"], name)
        for row in rows
        for name in row
        if "/" in name and name != "trainer/global_step"
    )
    assert max(sent.values()) == 1
    logged = {(row["step"], name) for row in expected for name in row if name not in AXES}
    assert logged <= set(sent)
    assert all(name.endswith(MEASURED) for _, name in set(sent) - logged)
    losses = {r["trainer/global_step"]: r["train/loss"] for r in rows if "train/loss" in r}
    assert losses == {row["step"]: row["train/loss"] for row in expected if "train/loss" in row}
    assert list(losses) == list(range(1, STEPS + 1))
    samples = {r["trainer/global_step"]: (r["samples"], r["tokens"]) for r in rows}
    assert samples == {row["step"]: (row["samples"], row["tokens"]) for row in expected}
    assert (told["group"], told["jobType"], told["tags"]) == ("tiny", "pretrain", ["a paper"])
    assert told["displayName"] == f"tiny/{run.name}" and told["state"] == "finished"
    config = server.config(own)
    assert config["model"]["init_args"]["optimizer"]["lr"] == 1e-3
    assert not any("/" in key or "." in key for key in config)
    provenance = json.loads((run / "provenance.json").read_text())
    assert config["provenance"]["git"] == provenance["git"]
    patch = (run / "git.patch").read_text() if (run / "git.patch").exists() else None
    assert (config["provenance"]["patch"] is None) == (patch is None)
    summary = json.loads((run / "summary.json").read_text())
    for name, value in summary["final"].items():
        assert told["summary"][name] == value, name
    for name, best in summary["best"].items():
        assert told["summary"][f"best/{name}"] == best["value"], name
    assert told["summary"]["trainer/global_step"] == STEPS
    assert told["summary"]["status"] == "finished"


def test_three_preemptions_online_are_one_run_with_every_step_once(server, experiment, tmp_path):
    run = tmp_path / "runs" / "tiny" / "online1"
    preempt(experiment, run, "online", server)
    check(server, run)
    streamed = [r["body"] for r in server.requests("stream")]
    assert sum(bool(body.get("preempting")) for body in streamed) == 1  # the one that handed on
    # Of checkpoints, only where they are is told; nothing of them is uploaded.
    made = [r for r in server.requests("graphql") if r["op"] == "CreateArtifact"]
    assert made
    assert not any(r["path"].endswith(".ckpt") for r in server.requests("upload"))


def test_three_preemptions_offline_sync_to_one_run(server, experiment, tmp_path):
    run = tmp_path / "runs" / "tiny" / "offline1"
    preempt(experiment, run, "offline", server)
    segments = sorted((run / "wandb").glob("offline-run-*"))
    # One for each attempt, but for one whose process was killed before any row was on the disk.
    assert len(segments) in (3, 4) and server.runs() == {}
    assert count_rows(run / "wandb", run_id=Run(run).wandb_id()) > STEPS
    wandb = Path(sys.executable).with_name("wandb")
    subprocess.run(
        [wandb, "sync", "--yes", *segments],
        check=True,
        capture_output=True,
        env={**os.environ, **server.environment},
    )
    check(server, run)


def test_rows_that_a_lost_node_had_not_delivered_are_sent_on_resume(server, experiment, tmp_path):
    run = tmp_path / "runs" / "tiny" / "online2"
    attempt(experiment, run, "online", server, at=20, how="node lost", down_at=4)
    server.is_down.unlink()
    rows = server.history(Run(run).wandb_id())  # W&B's SDK sends every 15 s: maybe none
    arrived = max((row["trainer/global_step"] for row in rows), default=0)
    checkpoint = int(Run(run).newest_checkpoint().stem.removeprefix("step-"))
    assert arrived < checkpoint  # training won't make these rows again
    attempt(experiment, run, "online", server)
    check(server, run)
