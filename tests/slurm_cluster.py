"""A real SLURM cluster for tests, thrown away afterwards: two virtual nodes on this machine."""

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mmlight.runs.slurm import client

TOOL = Path(__file__).parents[2] / "shared/tools/slurm-local"


def wait_for(found: Callable[[], Any], *, seconds: float, what: str) -> Any:
    """Return the first true answer; fail after so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := found():
            return value
        time.sleep(0.2)
    pytest.fail(f"not within {seconds} s: {what}")


@dataclass(frozen=True)
class Cluster:
    """A running cluster; SLURM's commands talk to it."""

    folder: Path

    def tool(self, verb: str, *arguments: str) -> None:
        """Run `slurm-local`, for one of its other verbs."""
        subprocess.run([TOOL, verb, self.folder, *arguments], check=True, capture_output=True)

    def job(self, job: str) -> dict[str, str]:
        """Return what `scontrol show job` says."""
        return client.show("job", job)

    def wait(self, job: str, *states: str, seconds: float = 120) -> dict[str, str]:
        """Wait until a job is in one of the states; return what SLURM then says of it."""

        def found() -> dict[str, str] | None:
            told = self.job(job)
            return told if told.get("JobState") in states else None

        what = f"job {job} is {' or '.join(states)}, but {self.job(job).get('JobState')}"
        return wait_for(found, seconds=seconds, what=what)


@contextmanager
def cluster(folder: Path, *, options: tuple[str, ...] = ()) -> Iterator[Cluster]:
    """Bring a cluster up, and take it down at the end; skip where its parts are missing."""
    if not TOOL.exists():
        pytest.skip("no ../shared/tools/slurm-local beside the checkout")
    paths = os.pathsep.join([os.environ["PATH"], "/usr/sbin"])
    for command in ("slurmctld", "slurmd", "munged", "sbatch"):
        if shutil.which(command, path=paths) is None:
            pytest.skip(f"no {command}: apt-get install slurmctld slurmd slurm-client munge")
    # Jobs take their ports from their ids: those of clusters side by side must differ.
    first = ("--conf", f"FirstJobId={random.randrange(1000, 60000)}")
    subprocess.run([TOOL, "up", folder, *first, *options], check=True, capture_output=True)
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    try:
        yield Cluster(folder)
    finally:
        os.environ.pop("SLURM_CONF")
        if before is not None:
            os.environ["SLURM_CONF"] = before
        subprocess.run([TOOL, "down", folder], check=False, capture_output=True)
