"""A tiny training as a job on a real cluster, and what can happen to it."""

import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cli_data
from slurm_cluster import Cluster, wait_for

from mmlight.runs.run.attempts import Attempts, read_attempts
from mmlight.runs.run.folder import Run
from mmlight.runs.run.metrics_log import read_rows
from mmlight.runs.slurm import client
from mmlight.runs.slurm.profile import Profile
from mmlight.runs.slurm.resources import Resources
from mmlight.runs.slurm.script import render

# A restart is nearly all import of packages, on a machine whose cores the ranks share.
START_S = 400
REPOSITORY = Path(__file__).parents[2]


@dataclass
class Job:
    """One run as a job of SLURM."""

    cluster: Cluster
    run: Run
    id: str

    def attempts(self) -> Attempts:
        return read_attempts(self.run.path)

    def starts(self) -> int:
        return sum(e["event"] == "start" for e in self.attempts().events)

    def step(self) -> int:
        rows = read_rows(self.run.metrics_jsonl)
        return rows[-1]["step"] if rows else 0

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [e for e in self.attempts().events if e["event"] == kind]

    def pids(self) -> list[int]:
        """Return the processes of the job's ranks, in the order of ranks."""
        found: list[tuple[int, int]] = []
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, ValueError):
                environ = dict(
                    entry.split("=", 1)
                    for entry in (path / "environ").read_text().split("\0")
                    if "=" in entry
                )
                words = (path / "cmdline").read_text().split("\0")
                parent = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
                of_step = environ.get("SLURM_STEP_ID") and environ.get("SLURM_JOB_ID") == self.id
                ours = environ.get("SLURM_CONF") == os.environ["SLURM_CONF"]
                # A rank is a child of SLURM's; its own workers have the same command line.
                by_slurm = "slurmstepd" in Path(f"/proc/{parent}/comm").read_text()
                if of_step and ours and by_slurm and "mmlight" in words:
                    found.append((int(environ["SLURM_PROCID"]), int(path.name)))
        return [pid for _, pid in sorted(found)]

    def kill_rank(self, rank: int) -> None:
        """Kill one rank without a warning."""
        os.kill(self.pids()[rank], signal.SIGKILL)

    def losses(self) -> dict[int, float]:
        return cli_data.losses(self.run.path)

    def log(self) -> str:
        return "\n".join(p.read_text() for p in sorted((self.run.path / "slurm").glob("*.out")))

    def wait_for_start(self, number: int) -> int:
        """Wait for the run's n-th start; return the step at which it began."""
        wait_for(
            lambda: self.starts() >= number, seconds=START_S, what=f"start {number}\n{self.log()}"
        )
        events = [e for e in self.attempts().events if e["event"] == "start"]
        return events[-1]["step"]

    def wait_for_step(self, step: int) -> None:
        def there() -> bool:
            return self.step() >= step

        end = time.monotonic() + START_S
        while time.monotonic() < end and not there():
            time.sleep(0.02)
        assert there(), f"step {step} was not reached\n{self.log()}"

    def send(self, name: str) -> None:
        """Send a signal to every process of the job's step, as SLURM's warnings come."""
        subprocess.run(["scancel", "--signal", name, self.id], check=True)

    def wait_for_hand_on(self, number: int) -> dict[str, Any]:
        """Wait until the run was handed on so often; return the end that led to it, if noted."""
        wait_for(
            lambda: len(self.attempts().hand_ons) >= number,
            seconds=START_S,
            what=f"hand-on {number}\n{self.log()}",
        )
        ends = [e for e in self.attempts().events if e["event"] == "end"]
        return ends[-1] if ends else {}

    def wait_for_end(self, *states: str, seconds: float = START_S) -> None:
        """Wait until the job has ended for good in one of these states."""
        wait_for(
            lambda: self.cluster.job(self.id).get("JobState") in (*states, "FAILED", "TIMEOUT"),
            seconds=seconds,
            what=f"job {self.id} is {states}\n{self.log()}",
        )
        assert self.cluster.job(self.id)["JobState"] in states, self.log()

    def interrupt(self, name: str, *, times: int, draws: random.Random) -> list[str]:
        """Send a signal at random steps, again after each restart; return a line for each."""
        told = []
        for number in range(1, times + 1):
            began = self.wait_for_start(number)
            self.wait_for_step(began + draws.randint(1, 12))
            self.send(name)
            end = self.wait_for_hand_on(number)
            assert end["hand_on"] and end["reason"] == name, self.log()
            assert self.run.checkpoint_step() == end["step"]
            told.append(f"{name}: from step {began}, left at {end['step']}")
            if number < times:
                assert self.wait_for_start(number + 1) == end["step"]
        return told


@dataclass
class Lab:
    """Submits runs of the tiny experiment."""

    cluster: Cluster
    folder: Path

    def prepare(self) -> Path:
        """Make the data, once; return its folder."""
        data = self.folder / "data"
        return data if data.exists() else cli_data.write_data(data)

    def submit(
        self,
        run_id: str,
        *,
        steps: int,
        nodes: int = 2,
        profile: Profile | None = None,
        options: tuple[str, ...] = (),
        **changes: Any,
    ) -> Job:
        """Submit a run.

        Args:
            run_id: its id.
            steps: how long it is.
            nodes: one process on each.
            profile: what it asks for.
            options: of sbatch.
            changes: of the experiment, with ``__`` for dots.
        """
        data = self.prepare()
        run = Run(self.folder / "my runs" / "tiny" / run_id)
        values = cli_data.changed(
            cli_data.experiment(data, run.path.parent.parent),
            {
                "trainer.max_steps": steps,
                "trainer.check_val_every_n_epoch": 5,
                "trainer.num_nodes": nodes,
                "trainer.strategy": "ddp" if nodes > 1 else "auto",
                "model.init_args.towers.audio": None,
                "data.init_args.audio": None,
                "data.init_args.members.audio": None,
                "data.init_args.image": {"size": 16, "scale": [0.5, 1.0]},
                "checkpoint": {"every_n_steps": 20, "keep": 2},
                **{key.replace("__", "."): value for key, value in changes.items()},
            },
        )
        cli_data.write_yaml(run.path / "submitted.yaml", values)
        profile = profile or Profile(time="30", environment={"OMP_NUM_THREADS": 1})
        tests = f'export PYTHONPATH="$PYTHONPATH:{REPOSITORY / "tests"}"'
        profile = replace(profile, setup=[tests, *profile.setup])
        script = render(
            profile,
            root=run.path.parent.parent,
            name="tiny",
            run_id=run_id,
            folder=run.path / "slurm",
            resources=Resources(nodes, 1, 0),
            snapshot=REPOSITORY,
            cwd=self.folder,
        )
        (run.path / "slurm").mkdir()
        (run.path / "slurm/job.sh").write_text(script)
        return Job(self.cluster, run, client.submit(run.path / "slurm/job.sh", options=options))
