"""Giving runs to SLURM: a run as a job, or many as arrays, each task of which is a run."""

import getpass
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmlight import yaml_text
from mmlight.errors import UserError
from mmlight.files import write_text
from mmlight.runs.run.submission import CANCELLED, Submission, script_file
from mmlight.runs.slurm import client
from mmlight.runs.slurm.followers import redirect
from mmlight.runs.slurm.profile import Profile
from mmlight.runs.slurm.resources import Resources, plan
from mmlight.runs.slurm.script import Array, render

CONFIG = "submitted.yaml"
NEVER_SUBMITTED = (
    "{} exists, but was never submitted: remove it, or launch another run of the same experiment "
    "with --again"
)


@dataclass(frozen=True)
class Launch:
    """A run that could be given to SLURM.

    Attributes:
        run: its folder.
        config: the resolved configuration.
        cluster: path of the cluster's profile.
        changes: values in place of the profile's, by key.
        profile: the profile, with these values.
        snapshot: where Python imports its code from; None for the installed package.
        own: where Python imports the user's own code from.
        cwd: where relative paths in the configuration begin.
        resources: what it needs.

    Raises:
        UserError: the cluster lacks it.
    """

    run: Path
    config: Mapping[str, Any]
    cluster: Path
    changes: Mapping[str, str]
    profile: Profile
    snapshot: Path | None
    own: tuple[Path, ...] = ()
    cwd: Path = field(default_factory=Path.cwd)
    resources: Resources = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "resources", plan(self.config, self.profile))

    def script(self, *, folder: Path | None = None, **which: Any) -> str:
        """Return the job script.

        Args:
            folder: where it and the logs of its jobs lie; None for the run's own.
            which: of `render`, of an array.
        """
        return render(
            self.profile,
            root=self.run.parents[1],
            name=self.run.parent.name,
            folder=folder or script_file(self.run).parent,
            resources=self.resources,
            snapshot=self.snapshot,
            own=self.own,
            cwd=self.cwd,
            **(which or {"run_id": self.run.name}),
        )

    def submit(self, *, options: Sequence[str] = ()) -> Submission:
        """Make the run's folder and submit its job.

        Args:
            options: further options of sbatch.

        Raises:
            UserError: the folder is there already, or SLURM refuses the job; then no folder stays.
        """
        try:
            self.run.mkdir(parents=True)
        except FileExistsError:
            raise UserError(NEVER_SUBMITTED.format(self.run)) from None
        try:
            return self._submit(options=options)
        except BaseException:
            shutil.rmtree(self.run, ignore_errors=True)
            raise

    def submit_again(self, before: Submission) -> Submission:
        """Submit one more job of a run that has ended; it goes on from the newest checkpoint."""
        (self.run / CANCELLED).unlink(missing_ok=True)
        again = self._submit(before)
        if before.jobs:
            redirect(self.run, before=before.jobs[-1], now=again.jobs[-1])
        return again

    def write_config(self) -> None:
        """Write the configuration that the jobs read, into the run's folder."""
        write_text(self.run / CONFIG, yaml_text.dump(self.full_config()))

    def full_config(self) -> dict[str, Any]:
        """Return the configuration with the run's place and the machines that it gets."""
        trainer = {**self.config["trainer"], **self.resources.trainer()}
        run = {
            **(self.config.get("run") or {}),
            "root": str(self.run.parents[1]),
            "name": self.run.parent.name,
            "id": self.run.name,
        }
        return {**self.config, "trainer": trainer, "run": run}

    def submitted(self, job: str, before: Submission | None) -> Submission:
        """Note in the run's folder that a job of it was submitted."""
        steps = self.config["trainer"].get("max_steps")
        submission = Submission(
            id=self.run.name,
            name=self.run.parent.name,
            cluster=str(self.cluster.absolute()),
            jobs=(*(before.jobs if before else ()), job),
            submitted_at=before.submitted_at if before else time.time(),
            user=getpass.getuser(),
            nodes=self.resources.nodes,
            gpus_per_node=self.resources.gpus_per_node,
            tasks_per_node=self.resources.tasks_per_node,
            config=str((self.run / CONFIG).absolute()),
            cwd=str(self.cwd),
            changes=dict(self.changes),
            snapshot=str(self.snapshot) if self.snapshot else None,
            own=tuple(map(str, self.own)),
            max_steps=steps if isinstance(steps, int) and steps > 0 else None,
            monitor=(self.config.get("checkpoint") or {}).get("monitor"),
        )
        submission.write(self.run)
        return submission

    def _submit(
        self, before: Submission | None = None, *, options: Sequence[str] = ()
    ) -> Submission:
        self.write_config()
        script = script_file(self.run)
        write_text(script, self.script())
        return self.submitted(client.submit(script, options=options), before)


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

    def scripts(self, *, largest: int | None) -> Iterator[tuple[str, str, dict[int, Launch]]]:
        """Yield the name and the text of each job script, and what its tasks are, by number.

        Args:
            largest: how many tasks an array may have; None for any number.
        """
        first = next(iter(self.launches.values()))
        python = f"{shlex.quote(sys.executable)} -P -m mmlight"
        status = f'{python}.runs.plan.status "$root/$name"'
        own = [f"trap {shlex.quote(status)} EXIT"]
        if self.draws:
            own.append(f'{python}.commands.sweep_array "$root/$name" "$id" || exit')
        size, folder, number = largest or len(self.ids), self.folder / "slurm", 0
        for begin in range(0, len(self.ids), size):
            ids = self.ids[begin : begin + size]
            places = [n for n in range(len(ids)) if begin + n in self.launches]
            if places:
                number += 1
                file = f"job-{number}.sh" if number > 1 else "job.sh"
                array = Array(ids, tasks=places, max_concurrent=self.max_concurrent)
                text = first.script(folder=folder, array=array, prepare=own, file=file)
                yield file, text, {n: self.launches[begin + n] for n in places}

    def submit(self, *, largest: int | None) -> list[str]:
        """Make the runs' folders and submit the `scripts`; return their jobs' ids.

        Raises:
            UserError: SLURM refuses one; then nothing that was made or submitted for it stays.
        """
        new = [launch.run for launch in self.launches.values() if not launch.run.exists()]
        jobs: dict[str, dict[int, Launch]] = {}
        try:
            for launch in self.launches.values():
                (launch.run / CANCELLED).unlink(missing_ok=True)
                if not self.draws:
                    launch.write_config()
            for file, text, tasks in self.scripts(largest=largest):
                script = self.folder / "slurm" / file
                write_text(script, text)
                # So many at a time are meant for all arrays together.
                waits = bool(self.max_concurrent and jobs)
                options = [f"--dependency=afterany:{[*jobs][-1]}"] if waits else []
                jobs[client.submit(script, options=options)] = tasks
        except BaseException:
            if jobs:
                client.cancel(list(jobs))
            for run in new:
                shutil.rmtree(run, ignore_errors=True)
            raise
        for job, tasks in jobs.items():
            for task, launch in tasks.items():
                launch.submitted(f"{job}_{task}", Submission.read(launch.run))
        return list(jobs)
