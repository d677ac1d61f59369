"""Which node a start failed on: what srun said of it, and what SLURM says of the job's nodes."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from mmlight.errors import UserError
from mmlight.runs.run.logs import text_of
from mmlight.runs.slurm import client
from mmlight.runs.slurm.job import job_name

_TAIL_BYTES = 1 << 18
# The job script says this before srun; restarts of a job share its log.
_BEGIN = re.compile(r"^mmlight: job \S+ begins on ", re.M)
_FAILED = re.compile(r"^srun: error: (?:Node failure on (\S+)|(\S+): tasks? \S+: )", re.M)
_GONE = ("DOWN", "NOT_RESPONDING", "FAIL", "ERROR", "*")


def log_file(script: Path, environ: Mapping[str, str]) -> Path:
    """Return the log of this job.

    Args:
        script: its script, beside which it lies.
        environ: the job's environment.
    """
    return script.with_name(f"{job_name(environ)}.out")


def failed_node(log: Path) -> str | None:
    """Return the node whose process was the first to fail in the job's last start, if it was one.

    With ``--kill-on-bad-exit`` the others are ended after it.

    Args:
        log: the job's log.
    """
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return None
    text = "\n".join(map(text_of, text.splitlines()))
    begins = [match.end() for match in _BEGIN.finditer(text)]
    match = _FAILED.search(text, begins[-1] if begins else 0)
    node = (match[1] or match[2]) if match else None
    return node if node and "[" not in node and "," not in node else None


def gone_nodes(environ: Mapping[str, str]) -> list[str]:
    """Return the job's nodes that SLURM takes for failed.

    Args:
        environ: the job's environment.
    """
    try:
        nodes = client.run("scontrol", "show", "hostnames", environ["SLURM_JOB_NODELIST"]).split()
        states = {node: client.show("node", node).get("State", "") for node in nodes}
    except (KeyError, UserError):
        return []
    return [node for node, state in states.items() if any(word in state for word in _GONE)]


def can_leave_out(nodes: str, script: Path) -> bool:
    """Return whether the cluster could run a job without some nodes.

    Args:
        nodes: their names, with commas.
        script: the job's script.
    """
    try:
        client.run("sbatch", "--test-only", f"--exclude={nodes}", str(script))
    except UserError:
        return False
    return True
