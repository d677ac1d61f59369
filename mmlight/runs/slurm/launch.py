"""Giving a run to SLURM: the files in its folder, and the job."""

import getpass
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmlight import yaml_text
from mmlight.errors import UserError
from mmlight.files import write_text
from mmlight.runs.run.submission import CANCELLED, Submission, script_file
from mmlight.runs.slurm import client
from mmlight.runs.slurm.followers import redirect
from mmlight.runs.slurm.profile import Profile
from mmlight.runs.slurm.resources import Resources
from mmlight.runs.slurm.script import render

CONFIG = "submitted.yaml"


@dataclass(frozen=True)
class Launch:
    """A run that could be given to SLURM.

    Attributes:
        run: its folder.
        config: the resolved configuration.
        cluster: path of the cluster's profile.
        changes: values in place of the profile's, by key.
        profile: the profile, with these values.
        resources: what it needs.
        snapshot: where Python imports its code from; None for the installed package.
        cwd: where relative paths in the configuration begin.
        own: where Python imports the user's own code from.
    """

    run: Path
    config: Mapping[str, Any]
    cluster: Path
    changes: Mapping[str, str]
    profile: Profile
    resources: Resources
    snapshot: Path | None
    cwd: Path
    own: tuple[Path, ...] = ()

    def script(self) -> str:
        """Return the job script."""
        return render(
            self.profile,
            root=self.run.parents[1],
            name=self.run.parent.name,
            run_id=self.run.name,
            folder=script_file(self.run).parent,
            nodes=self.resources.nodes,
            tasks_per_node=self.resources.tasks_per_node,
            gpus_per_node=self.resources.gpus_per_node,
            snapshot=self.snapshot,
            own=self.own,
            cwd=self.cwd,
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
            raise UserError(
                f"{self.run} exists, but was never submitted: remove it, or launch another run of "
                "the same experiment with --again"
            ) from None
        try:
            return self._submit((), options=options)
        except BaseException:
            shutil.rmtree(self.run, ignore_errors=True)
            raise

    def submit_again(self, before: Submission) -> Submission:
        """Submit one more job of a run that has ended; it goes on from the newest checkpoint.

        Args:
            before: how it was submitted.
        """
        (self.run / CANCELLED).unlink(missing_ok=True)
        again = self._submit(before.jobs, submitted_at=before.submitted_at)
        if before.jobs:
            redirect(self.run, before=before.jobs[-1], now=again.jobs[-1])
        return again

    def write_config(self) -> None:
        """Write the configuration that the jobs read, into the run's folder."""
        write_text(self._config_file, yaml_text.dump(self.full_config()))

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

    def submission(self, jobs: tuple[str, ...], *, submitted_at: float) -> Submission:
        """Return what is noted of it.

        Args:
            jobs: ids of its jobs, the newest last.
            submitted_at: when it was first submitted, seconds since 1970.
        """
        return Submission(
            id=self.run.name,
            name=self.run.parent.name,
            cluster=str(self.cluster.absolute()),
            jobs=jobs,
            submitted_at=submitted_at,
            user=getpass.getuser(),
            nodes=self.resources.nodes,
            gpus_per_node=self.resources.gpus_per_node,
            tasks_per_node=self.resources.tasks_per_node,
            config=str(self._config_file.absolute()),
            cwd=str(self.cwd),
            changes=dict(self.changes),
            snapshot=str(self.snapshot) if self.snapshot else None,
            own=tuple(map(str, self.own)),
            max_steps=_max_steps(self.config),
            monitor=(self.config.get("checkpoint") or {}).get("monitor"),
        )

    @property
    def _config_file(self) -> Path:
        return self.run / CONFIG

    def _submit(
        self,
        jobs: tuple[str, ...],
        *,
        submitted_at: float | None = None,
        options: Sequence[str] = (),
    ) -> Submission:
        self.write_config()
        script = script_file(self.run)
        write_text(script, self.script())
        jobs = (*jobs, client.submit(script, options=options))
        submission = self.submission(jobs, submitted_at=submitted_at or time.time())
        submission.write(self.run)
        return submission


def _max_steps(config: Mapping[str, Any]) -> int | None:
    steps = config["trainer"].get("max_steps")
    return steps if isinstance(steps, int) and steps > 0 else None
