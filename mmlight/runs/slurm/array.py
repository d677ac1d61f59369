"""A sweep as SLURM arrays, each task of which is a run of its own: one, or as many as it takes."""

import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmlight.files import write_text
from mmlight.runs.run.submission import CANCELLED, Submission
from mmlight.runs.slurm import client
from mmlight.runs.slurm.launch import Launch
from mmlight.runs.slurm.script import Array, render


@dataclass(frozen=True)
class ArrayLaunch:
    """The runs of a sweep that could be given to SLURM.

    Attributes:
        folder: of the sweep; those of its runs lie in it.
        ids: the ids of all runs of the sweep, in order.
        launches: those that are submitted now, by their places in `ids`.
        max_concurrent: how many may run at a time; None for no limit.
        draws: a run's values are drawn when it begins (Optuna): until then it has no
            configuration.
    """

    folder: Path
    ids: Sequence[str]
    launches: dict[int, Launch]
    max_concurrent: int | None
    draws: bool

    def scripts(self, *, largest: int | None) -> Iterator[tuple[str, str]]:
        """Yield the name and the text of each job script.

        Args:
            largest: how many tasks an array may have; None for any number.
        """
        first = next(iter(self.launches.values()))
        python = f"{shlex.quote(sys.executable)} -P -m mmlight"
        status = f'{python}.runs.plan.status "$root/$name"'
        own = [f"trap {shlex.quote(status)} EXIT"]
        if self.draws:
            own.append(f'{python}.commands.sweep_member "$root/$name" "$id" || exit')
        for number, (begin, tasks) in enumerate(self._parts(largest)):
            file = f"job-{number + 1}.sh" if number else "job.sh"
            ids = self.ids[begin : begin + (largest or len(self.ids))]
            yield (
                file,
                render(
                    first.profile,
                    root=self.folder.parent,
                    name=self.folder.name,
                    array=Array(
                        ids,
                        tasks=[task - begin for task in tasks],
                        max_concurrent=self.max_concurrent,
                    ),
                    folder=self.folder / "slurm",
                    nodes=first.resources.nodes,
                    tasks_per_node=first.resources.tasks_per_node,
                    gpus_per_node=first.resources.gpus_per_node,
                    snapshot=first.snapshot,
                    own=first.own,
                    prepare=own,
                    cwd=first.cwd,
                    file=file,
                ),
            )

    def _parts(self, largest: int | None) -> Iterator[tuple[int, list[int]]]:
        """Yield the runs of each array, and the first run that it could have."""
        size = largest or len(self.ids)
        for begin in range(0, len(self.ids), size):
            if tasks := [task for task in self.launches if begin <= task < begin + size]:
                yield begin, tasks

    def submit(self, *, largest: int | None) -> list[str]:
        """Make the runs' folders and submit the arrays; return their jobs' ids.

        Args:
            largest: how many tasks an array may have; None for any number.

        Raises:
            UserError: SLURM refuses one; then nothing that was made or submitted for it stays.
        """
        new = [launch.run for launch in self.launches.values() if not launch.run.exists()]
        jobs: list[str] = []
        try:
            for launch in self.launches.values():
                (launch.run / CANCELLED).unlink(missing_ok=True)
                if not self.draws:
                    launch.write_config()
            for file, text in self.scripts(largest=largest):
                script = self.folder / "slurm" / file
                write_text(script, text)
                # So many at a time are meant for all arrays together.
                waits = bool(self.max_concurrent and jobs)
                options = [f"--dependency=afterany:{jobs[-1]}"] if waits else []
                jobs.append(client.submit(script, options=options))
        except BaseException:
            if jobs:
                client.cancel(jobs)
            for run in new:
                shutil.rmtree(run, ignore_errors=True)
            raise
        now = time.time()
        for job, (begin, tasks) in zip(jobs, self._parts(largest), strict=True):
            for task in tasks:
                launch = self.launches[task]
                before = Submission.read(launch.run)
                named = (*(before.jobs if before else ()), f"{job}_{task - begin}")
                at = before.submitted_at if before else now
                launch.submission(named, submitted_at=at).write(launch.run)
        return jobs
