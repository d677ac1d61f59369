"""``mmlight cancel``: ends runs, so that nothing goes on with them."""

import argparse
from collections.abc import Sequence

from mmlight.errors import UserError
from mmlight.runs.run.find import find
from mmlight.runs.run.state import jobs_of, state_of
from mmlight.runs.slurm import client
from mmlight.terminal import say


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight cancel``.

    Raises:
        UserError: SLURM is not here, or a run that it was not given.
    """
    parser = argparse.ArgumentParser(
        prog="mmlight cancel",
        description="End runs that wait or run on SLURM. A running one is asked to save first, as "
        "far as the cluster leaves it the time; `mmlight resume` goes on with it.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="NAME/ID, ID, a path, or its begin")
    parser.add_argument("--root", default="runs", help="the folder of all runs (default: runs)")
    options = parser.parse_args(argv)
    if not client.is_here("scancel"):
        raise UserError(client.MISSING.format("scancel"))
    runs = [find(name, root=options.root) for name in options.runs]
    others = [run.label for run in runs if run.submission is None]
    queue = jobs_of(runs)
    for run in runs:
        if run.submission is None:
            continue
        state = state_of(run, queue)
        if not state.is_active:
            say(f"{run.label} has ended already: {state}")
            continue
        # First: the job script looks for it before it hands a run on.
        run.cancelled.touch()
        active = [job for job in run.jobs if queue and job in queue and queue[job].is_active]
        client.cancel(active)
        say(f"{run.label}: cancelled job {', '.join(active)}")
    if others:
        raise UserError(
            f"{', '.join(others)} was not given to SLURM: stop it where it runs (Ctrl-C)"
        )
    return 0
