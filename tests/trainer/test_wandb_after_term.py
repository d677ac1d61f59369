"""W&B's own process ends with the job's TERM; training must not, and no row may be lost."""

import subprocess
import sys

import pytest

from mmlight.runs.run.folder import Run
from mmlight.runs.wandb.file import count_rows

LOG = """
import os, signal, subprocess, sys, time
from pathlib import Path
from mmlight import signals
from mmlight.runs.run.folder import Run
from mmlight.trainer.wandb_run import WandbRun
from mmlight.runs.run.folder import Run
signals.note_signals()
logger = WandbRun(Run(Path(sys.argv[1])), mode="offline", config={})
logger.log_metrics({"train/loss": 1.0}, step=1)
children = subprocess.run(["pgrep", "-P", str(os.getpid()), "wandb-core"], capture_output=True)
os.kill(int(children.stdout), signal.SIGTERM)
if sys.argv[2] == "told":
    os.kill(os.getpid(), signal.SIGTERM)
time.sleep(1)
for step in (2, 3, 4):
    logger.log_metrics({"train/loss": 1.0}, step=step)
    time.sleep(0.2)
logger.finish(how="preempted")
print("left in order")
"""

GO_ON = """
import sys
from pathlib import Path
from mmlight.trainer.wandb_run import WandbRun
from mmlight.runs.run.folder import Run
logger = WandbRun(Run(Path(sys.argv[1])), mode="offline", config={})
axes = {"epoch": 0, "samples": 0, "wall_s": 0.0}
logger.catch_up([{"step": step, "train/loss": 1.0, **axes} for step in (1, 2, 3, 4)])
logger.finish()
"""


def run(code, folder, *arguments):
    """Run code in a process; return its exit code and what it printed."""
    command = [sys.executable, "-c", code, str(folder), *arguments]
    # Not a pipe: a process of W&B that outlives ours would hold it open.
    with (folder.parent / "said").open("w+") as said:
        done = subprocess.run(command, stdout=said, stderr=said)
        said.seek(0)
        return done.returncode, said.read()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tiny").mkdir()
    return tmp_path / "tiny" / "id1"


@pytest.mark.slow
def test_training_leaves_in_order_and_the_rows_follow_when_it_goes_on(folder):
    code, said = run(LOG, folder, "told")
    assert code == 0, said
    assert "left in order" in said
    assert count_rows(folder / "wandb", run_id=Run(folder).wandb_id()) < 4
    code, said = run(GO_ON, folder)
    assert code == 0, said
    assert count_rows(folder / "wandb", run_id=Run(folder).wandb_id()) == 4


@pytest.mark.slow
def test_loss_of_wandb_is_said_once_and_ends_no_run(folder):
    code, said = run(LOG, folder, "not told")
    assert code == 0, said
    assert "left in order" in said
    assert said.count("W&B takes nothing more") == 1 and "wandb sync" in said
