"""The job that a run is part of: what the scheduler says of it (no torch)."""

from collections.abc import Mapping
from typing import Any


def describe_job(environ: Mapping[str, str]) -> dict[str, Any] | None:
    """Return id, restarts, nodes and partition of a SLURM job; None outside of one.

    Args:
        environ: the environment variables.
    """
    job = environ.get("SLURM_JOB_ID")
    if job is None:
        return None
    array, task = environ.get("SLURM_ARRAY_JOB_ID"), environ.get("SLURM_ARRAY_TASK_ID")
    return {
        "id": f"{array}_{task}" if array and task else job,
        "restarts": int(environ.get("SLURM_RESTART_COUNT", "0")),
        "num_nodes": int(environ.get("SLURM_JOB_NUM_NODES", "1")),
        "nodes": environ.get("SLURM_JOB_NODELIST"),
        "partition": environ.get("SLURM_JOB_PARTITION"),
    }
