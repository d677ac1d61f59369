"""A sweep as one SLURM array, each task of which is a run of its own."""

import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmlight.runs.files import write_text
from mmlight.runs.slurm import client
from mmlight.runs.slurm.launch import Launch
from mmlight.runs.slurm.script import Array, render
from mmlight.runs.slurm.submission import CANCELLED, Submission


@dataclass(frozen=True)
class ArrayLaunch:
    """The runs of a sweep that could be given to SLURM.

    Attributes:
        folder: of the sweep; those of its runs lie in it.
        ids: the ids of all runs of the sweep, in order: task N is the run `ids[N]`.
        launches: those that are submitted now, by task.
        max_concurrent: how many may run at a time; None for no limit.
        draws: a run's values are drawn when it begins (Optuna): until then it has no
            configuration.
    """

    folder: Path
    ids: Sequence[str]
    launches: dict[int, Launch]
    max_concurrent: int | None
    draws: bool

    def script(self) -> str:
        """Return the job script."""
        first = next(iter(self.launches.values()))
        python = f"{shlex.quote(sys.executable)} -P -m mmlight"
        status = f'{python}.runs.sweep_status "$root/$name"'
        own = [f"trap {shlex.quote(status)} EXIT"]
        if self.draws:
            own.append(f'{python}.commands.sweep_member "$root/$name" "$id" || exit')
        return render(
            first.profile,
            root=self.folder.parent,
            name=self.folder.name,
            array=Array(self.ids, tasks=list(self.launches), max_concurrent=self.max_concurrent),
            folder=self.folder / "slurm",
            nodes=first.resources.nodes,
            tasks_per_node=first.resources.tasks_per_node,
            gpus_per_node=first.resources.gpus_per_node,
            snapshot=first.snapshot,
            own=first.own,
            prepare=own,
            cwd=first.cwd,
        )

    def submit(self) -> str:
        """Make the runs' folders and submit the array; return its job's id.

        Raises:
            UserError: SLURM refuses it; then folders that were made for it don't stay.
        """
        new = [launch.run for launch in self.launches.values() if not launch.run.exists()]
        try:
            for launch in self.launches.values():
                (launch.run / CANCELLED).unlink(missing_ok=True)
                if not self.draws:
                    launch.write_config()
            script = self.folder / "slurm" / "job.sh"
            write_text(script, self.script())
            job = client.submit(script)
        except BaseException:
            for run in new:
                shutil.rmtree(run, ignore_errors=True)
            raise
        now = time.time()
        for task, launch in self.launches.items():
            before = Submission.read(launch.run)
            jobs = (*(before.jobs if before else ()), f"{job}_{task}")
            launch.submission(jobs, submitted_at=before.submitted_at if before else now).write(
                launch.run
            )
        return job
