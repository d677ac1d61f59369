"""How a job's start ended: who ended it, and which node failed, as SLURM and the log say."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from mmlight.errors import UserError
from mmlight.runs.run.logs import tail
from mmlight.runs.slurm import client
from mmlight.runs.slurm.decision import Failure
from mmlight.runs.slurm.durations import seconds
from mmlight.runs.slurm.job import job_name

Ending = Literal["nobody", "cancelled", "preempted", "requeued", "time limit"]
JOB_SCRIPT = "MMLIGHT_JOB_SCRIPT"
_TAIL_BYTES = 1 << 18
# The job script says this before srun; restarts of a job share its log.
_BEGIN = re.compile(r"^mmlight: job \S+ begins on ", re.M)
_FAILED = re.compile(r"^srun: error: (?:Node failure on (\S+)|(\S+): tasks? \S+: )", re.M)
_GONE = ("DOWN", "NOT_RESPONDING", "FAIL", "ERROR", "*")


def ended_by(environ: Mapping[str, str]) -> Ending:
    """Return who ends this job; nobody, where SLURM cannot be asked."""
    try:
        job = client.show("job", job_name(environ) or "")
    except client.Unreachable:
        return "nobody"
    return ending(job, restart=int(environ.get("SLURM_RESTART_COUNT") or 0))


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


def failure_of(environ: Mapping[str, str], by: Ending) -> Failure:
    """Return what SLURM and the log say of the end of this start."""
    if gone := _gone_nodes(environ):
        return Failure(f"node failure: {', '.join(gone)}", gone[0])
    if by in ("requeued", "preempted"):
        return Failure("preempted" if by == "preempted" else "requeued by SLURM")
    if (script := environ.get(JOB_SCRIPT)) is None:
        return Failure()
    return Failure(node=failed_node(Path(script).with_name(f"{job_name(environ)}.out")))


def failed_node(log: Path) -> str | None:
    """Return the node whose process was the first to fail in the job's last start, if it was one.

    With ``--kill-on-bad-exit`` the others are ended after it.
    """
    text = "\n".join(tail(log, _TAIL_BYTES))
    begins = [match.end() for match in _BEGIN.finditer(text)]
    match = _FAILED.search(text, begins[-1] if begins else 0)
    node = (match[1] or match[2]) if match else None
    return node if node and "[" not in node and "," not in node else None


def _gone_nodes(environ: Mapping[str, str]) -> list[str]:
    """Return the job's nodes that SLURM takes for failed."""
    try:
        nodes = client.run("scontrol", "show", "hostnames", environ["SLURM_JOB_NODELIST"]).split()
        states = {node: client.show("node", node).get("State", "") for node in nodes}
    except (KeyError, UserError):
        return []
    return [node for node, state in states.items() if any(word in state for word in _GONE)]


def can_leave_out(nodes: str, script: Path) -> bool:
    """Return whether the cluster could run a job without some nodes, given with commas."""
    try:
        client.run("sbatch", "--test-only", f"--exclude={nodes}", str(script))
    except UserError:
        return False
    return True
