"""What was launched: `submission.json` in the folder of a run that was given to SLURM."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from mmlight.errors import UserError
from mmlight.files import write_json

FILE = "submission.json"
CANCELLED = "cancelled"
# Of the fields that are no text.
_TYPES: dict[str, Any] = {
    **dict.fromkeys(("nodes", "gpus_per_node", "tasks_per_node"), int),
    **{"submitted_at": int | float, "max_steps": int | None},
    **dict.fromkeys(("snapshot", "monitor"), str | None),
}


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
        own: where Python imports the user's own code from.
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
    own: tuple[str, ...] = ()
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
            return cls.parse(json.loads((run / FILE).read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{run / FILE} is damaged: {error}") from error

    @classmethod
    def parse(cls, values: Any) -> "Submission":
        """Return the submission that a file holds.

        Args:
            values: as JSON has them; unknown keys are those of a later version.

        Raises:
            TypeError: something is missing, or of another type.
        """
        known = {f.name: values[f.name] for f in fields(cls) if f.name in dict(values)}
        known["jobs"] = _texts(known.get("jobs"))
        known["own"] = _texts(known.get("own", []))
        made = cls(**known)
        _texts([*dict(made.changes).keys(), *made.changes.values()])
        for f in fields(cls):
            value = getattr(made, f.name)
            if f.name not in ("jobs", "own", "changes") and not isinstance(
                value, _TYPES.get(f.name, str)
            ):
                raise TypeError(f"{f.name} is {value!r}")
        return made


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"{values!r} is no list of texts")
    return tuple(values)


def script_file(run: Path) -> Path:
    """Return the path of the job script of a run."""
    return run / "slurm" / "job.sh"
