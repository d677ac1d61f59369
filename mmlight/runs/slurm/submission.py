"""What was launched: `submission.json` in the folder of a run that was given to SLURM."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from mmlight.errors import UserError
from mmlight.runs.files import write_json

FILE = "submission.json"
CANCELLED = "cancelled"


@dataclass(frozen=True)
class Submission:
    """A run that was given to SLURM.

    Attributes:
        id: the run's id.
        name: the experiment's name.
        cluster: path of the cluster's profile.
        jobs: ids of its jobs, the newest last; of an array's task, ``123_4``.
        submitted_at: when it was first submitted, seconds since 1970.
        user: who submitted it.
        nodes: number of machines.
        gpus_per_node: GPUs of each; 0 for training on CPUs.
        tasks_per_node: processes on each.
        config: the configuration that it runs with.
        cwd: where relative paths in it begin.
        changes: values in place of the profile's, by key.
        snapshot: where Python imports its code from; None for the installed package.
        max_steps: optimiser steps it will make, where the configuration says so.
        monitor: the metric by which its best checkpoint is chosen.
    """

    id: str
    name: str
    cluster: str
    jobs: tuple[str, ...]
    submitted_at: float
    user: str
    nodes: int
    gpus_per_node: int
    tasks_per_node: int
    config: str
    cwd: str
    changes: Mapping[str, str] = field(default_factory=dict)
    snapshot: str | None = None
    max_steps: int | None = None
    monitor: str | None = None

    def with_job(self, job: str) -> "Submission":
        """Return this submission with one more job."""
        return self if job in self.jobs else replace(self, jobs=(*self.jobs, job))

    def write(self, run: Path) -> None:
        """Write it into a run's folder."""
        write_json(run / FILE, asdict(self))

    @classmethod
    def read(cls, run: Path) -> "Submission | None":
        """Return the submission of a run; None for a run that was not given to SLURM.

        Args:
            run: the run's folder.
        """
        try:
            values = json.loads((run / FILE).read_text())
            known = {field.name for field in fields(cls)}
            kept = {key: value for key, value in values.items() if key in known}
            return cls(**{**kept, "jobs": tuple(values["jobs"])})
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{run / FILE} is damaged: {error}") from error


def script_file(run: Path) -> Path:
    """Return the path of the job script of a run."""
    return run / "slurm" / "job.sh"
