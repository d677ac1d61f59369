"""What a job script does first when SLURM has started its job again.

``python -P -m mmlight.runs.slurm.before_srun RUN_FOLDER`` runs in the batch shell. Where the node
of that shell has failed, nobody was left to say so: it is noted now. A job that has got a node
again that failed the run twice is requeued without it.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmlight.errors import UserError
from mmlight.runs.run.attempts import append_event, read_attempts
from mmlight.runs.run.folder import Run
from mmlight.runs.slurm import client
from mmlight.runs.slurm.after_srun import hand_on, judge, note_given_up
from mmlight.runs.slurm.decision import Failure
from mmlight.runs.slurm.job import job_name
from mmlight.terminal import say

_KILLED = 137


def main(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """Note a start that nobody has judged; return 0 if the job shall go on, else its exit code."""
    run = Run(Path(arguments[0]))
    node = _lost_node(run, environ)
    if node is None:
        return 0
    decision = judge(run, _KILLED, environ, Failure(f"node failure: {node}", node))
    if decision.action == "leave":
        return 0
    if decision.action == "give up":
        note_given_up(run, decision)
        return decision.exit_code
    here = client.run("scontrol", "show", "hostnames", environ["SLURM_JOB_NODELIST"]).split()
    if set(here) & set(decision.exclude):
        hand_on(run, decision, environ)
        return 1  # of no account: the job is ended and waits
    append_event(run.path, "requeued", job=job_name(environ), **decision.described())
    say(f"mmlight: {decision.reason}; the run goes on at step {decision.step}")
    return 0


def _lost_node(run: Run, environ: Mapping[str, str]) -> str | None:
    """Return the batch shell's node in this job's last start, if nobody has judged that one."""
    others = [event for event in read_attempts(run.path).events if event["event"] != "end"]
    last = others[-1] if others else {}
    restart = int(environ.get("SLURM_RESTART_COUNT") or 0)
    is_ours = last.get("event") == "start" and last.get("job") == job_name(environ)
    before = last.get("restart")
    if not is_ours or not isinstance(before, int) or before >= restart:
        return None
    # Rank 0 runs on the first node, as the batch shell does.
    node = last.get("node") or last.get("host")
    return str(node) if node else None


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        say(f"mmlight: {error}")
