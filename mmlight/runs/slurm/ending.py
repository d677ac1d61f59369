"""Who ends a job that still has a moment: SLURM says it by what the job looks like."""

from collections.abc import Mapping
from typing import Literal

from mmlight.errors import UserError
from mmlight.runs.slurm.time_limit import seconds

Ending = Literal["nobody", "cancelled", "preempted", "requeued", "time limit"]


def ending(job: Mapping[str, str], *, restart: int) -> Ending:
    """Return what SLURM is doing to a job, asked from within it.

    Training ends alike for all of them, on TERM. But a job that somebody has cancelled would be
    resurrected if it were requeued, and one that SLURM requeues needs nobody to do it again. (As
    seen with SLURM 22.05: while it ends a job, that is COMPLETING; Restarts has risen already where
    it will be requeued. A job warned by USR1, or preempted with time to save, is RUNNING.)

    Args:
        job: what `scontrol show job` says of it; empty where it says nothing.
        restart: how often the job had been restarted when it began (``SLURM_RESTART_COUNT``).
    """
    if "COMPLETING" not in job.get("JobState", "") and job.get("JobState") != "CANCELLED":
        return "nobody"
    if job.get("Restarts", "0").isdecimal() and int(job.get("Restarts", "0")) > restart:
        return "requeued"
    if job.get("PreemptTime", "None") not in ("None", "N/A"):
        return "preempted"
    try:
        is_over = seconds(job["RunTime"]) >= seconds(job["TimeLimit"])
        if is_over or job.get("Reason") == "TimeLimit":
            return "time limit"
    except (KeyError, UserError):  # no time limit
        pass
    return "cancelled"
