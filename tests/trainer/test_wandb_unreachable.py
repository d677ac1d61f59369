"""W&B that cannot be reached, at the start, in the middle or at the end, and full disks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from wandb_recorder import recorder

from mmlight.runs.run.folder import Run

# Each is a training of two or more steps: what it logs, and the metrics.jsonl it goes on from.
TRAIN = """
import sys, time
from pathlib import Path
from mmlight.runs.run.folder import Run
from mmlight.trainer.wandb_run import WandbRun
from mmlight.runs.run.folder import Run
folder, down, first, last, down_at, how = sys.argv[1:]
about = {"group": "seeds", "notes": "why it was run"}
logger = WandbRun(Run(Path(folder)), mode="online", config={}, **about)
logger.catch_up([
    {"step": step, "train/loss": 1.0, "epoch": 0, "samples": 0, "wall_s": 0.0}
    for step in range(1, int(first))
])
for step in range(int(first), int(last) + 1):
    if step == int(down_at):
        Path(down).touch()
    logger.log_metrics({"train/loss": 1.0}, step=step)
logger.refer_to({"last": Path(folder)})
logger.finish(how=how)
print("left in order")
"""
NOWHERE = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "a" * 40}


def train(folder: Path, environment, *, first=1, last=6, down="down", down_at=0, how="finished"):
    """Train in a process; return what was printed."""
    command = [sys.executable, "-c", TRAIN, *map(str, (folder, down, first, last, down_at, how))]
    limits = {"WANDB_INIT_TIMEOUT": "4", "WANDB_FINISH_TIMEOUT": "4", "WANDB_SILENT": "true"}
    with (folder.parent / "said").open("w+") as said:
        done = subprocess.run(
            command, stdout=said, stderr=said, env=os.environ | limits | environment, check=False
        )
        said.seek(0)
        text = said.read()
    assert done.returncode == 0, text
    assert "left in order" in text and "Traceback" not in text, text
    return text


def steps(server, folder: Path) -> list[int]:
    return [row["trainer/global_step"] for row in server.history(Run(folder).wandb_id())]


def sync(server, folder: Path) -> None:
    segments = sorted((folder / "wandb").glob("*run-*"))
    subprocess.run(
        [Path(sys.executable).with_name("wandb"), "sync", "--no-skip-online", *segments],
        check=True,
        capture_output=True,
        env=os.environ | server.environment,
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tiny").mkdir()
    return tmp_path / "tiny" / "id1"


@pytest.fixture
def server(tmp_path):
    with recorder(tmp_path / "server") as found:
        yield found


@pytest.mark.slow
def test_a_run_that_cannot_reach_wandb_goes_on_offline_and_one_command_sends_it(folder, server):
    said = train(folder, NOWHERE)
    assert said.count("goes on offline") == 1 and "wandb sync" in said
    assert server.runs() == {}
    sync(server, folder)
    assert steps(server, folder) == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_the_next_start_sends_what_an_offline_one_kept(folder, server):
    train(folder, NOWHERE)
    train(folder, server.environment, first=7, last=9)
    assert steps(server, folder) == list(range(1, 10))
    # Sent twice, rows would follow one another twice.
    subprocess.run(
        [Path(sys.executable).with_name("wandb"), "sync", "--yes"],
        cwd=folder,
        check=True,
        capture_output=True,
        env=os.environ | server.environment,
    )
    assert steps(server, folder) == list(range(1, 10))


@pytest.mark.slow
def test_a_server_that_goes_away_in_the_middle_ends_nothing(folder, server):
    said = train(folder, server.environment, down=server.is_down, down_at=3)
    assert "wandb sync" in said
    server.is_down.unlink()
    sync(server, folder)
    assert steps(server, folder) == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_a_run_that_ends_without_the_server_is_whole_after_the_next_start(folder, server):
    train(folder, server.environment, down=server.is_down, down_at=6)
    server.is_down.unlink()
    train(folder, server.environment, first=7, last=8)
    assert steps(server, folder) == list(range(1, 9))


@pytest.mark.slow
def test_two_folders_of_one_run_id_are_two_runs_of_wandb(tmp_path, server):
    for name in ("one", "two"):
        (tmp_path / name / "tiny").mkdir(parents=True)
        train(tmp_path / name / "tiny" / "id1", server.environment, last=2)
    assert len(server.runs()) == 2
    for name in ("one", "two"):
        folder = tmp_path / name / "tiny" / "id1"
        assert steps(server, folder) == [1, 2]
        told = server.runs()[Run(folder).wandb_id()]
        assert (told["group"], told["notes"]) == ("seeds", "why it was run")
        url = Run(folder).wandb_url
        assert url.startswith("http") and url.endswith(f"/runs/{Run(folder).wandb_id()}")


@pytest.fixture
def full_disk(tmp_path):
    """A folder on a disk of its own, which has no room left."""
    place = tmp_path / "full"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may make a disk that is full")
    with (place / "all of it").open("wb") as file, pytest.raises(OSError):
        file.write(bytes(1 << 20))
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
def test_a_full_home_ends_nothing(folder, full_disk):
    offline = NOWHERE | {"WANDB_MODE": "offline", "HOME": str(full_disk)}
    assert "takes nothing more" not in train(folder, offline)
    elsewhere = dict.fromkeys(("WANDB_DATA_DIR", "WANDB_CACHE_DIR"), str(full_disk / "w"))
    assert train(folder, offline | elsewhere, last=7).count("takes nothing more") == 1


@pytest.mark.slow
def test_wandb_is_told_of_the_end_although_it_took_something_not(folder, full_disk, server):
    elsewhere = dict.fromkeys(("WANDB_DATA_DIR", "WANDB_CACHE_DIR"), str(full_disk / "w"))
    said = train(folder, server.environment | elsewhere, how="preempted")
    assert said.count("takes nothing more") == 1
    streamed = [request["body"] for request in server.requests("stream")]
    assert any(body.get("preempting") for body in streamed)
    assert streamed[-1]["complete"] and streamed[-1]["exitcode"] == 1
