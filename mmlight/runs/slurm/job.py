"""The job that a run is part of: what the scheduler says of it (no torch)."""

from collections.abc import Mapping
from typing import Any

# The job whose script is mmlight's own.
OWN_JOB = "MMLIGHT_JOB"


def job_name(environ: Mapping[str, str]) -> str | None:
    """Return the name of this job, or task of an array, as SLURM's commands take it, or None."""
    array, task = environ.get("SLURM_ARRAY_JOB_ID"), environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else environ.get("SLURM_JOB_ID") or None


def is_ours(environ: Mapping[str, str]) -> bool:
    """Return whether this is a SLURM job whose script is mmlight's own, which goes on with runs.

    A variable of that script may have come from a surrounding job, so it names the job.
    """
    job = environ.get("SLURM_JOB_ID")
    return job is not None and environ.get(OWN_JOB) == job


def describe_job(environ: Mapping[str, str]) -> dict[str, Any] | None:
    """Return id, restarts, nodes and partition of a SLURM job; None outside of one."""
    if environ.get("SLURM_JOB_ID") is None:
        return None
    return {
        "id": job_name(environ),
        "restarts": int(environ.get("SLURM_RESTART_COUNT", "0")),
        "num_nodes": int(environ.get("SLURM_JOB_NUM_NODES", "1")),
        "nodes": environ.get("SLURM_JOB_NODELIST"),
        "partition": environ.get("SLURM_JOB_PARTITION"),
    }
