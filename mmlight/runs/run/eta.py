"""How much longer a run will take, of how fast its last steps were."""

from mmlight.runs.run.scan import ScannedRun


def planned_steps(run: ScannedRun) -> int | None:
    """Return how many optimiser steps a run will make in all; None where it is not known yet.

    Its training process notes it when it starts; before that, the configuration may say it.
    """
    for event in reversed(run.attempts.events):
        if isinstance(event.get("max_steps"), int):
            return int(event["max_steps"])
    return run.submission.max_steps if run.submission else None


def seconds_left(run: ScannedRun) -> float | None:
    """Return how long the rest of a run's steps will take; None where it cannot be told.

    Time spent waiting, validating and saving between the last logged steps counts as theirs.
    """
    total = planned_steps(run)
    rows = [row for row in run.rows if "step" in row and "wall_s" in row]
    if total is None or len(rows) < 2:
        return None
    steps = rows[-1]["step"] - rows[0]["step"]
    seconds = rows[-1]["wall_s"] - rows[0]["wall_s"]
    if steps <= 0 or seconds <= 0:
        return None
    return float(max(0, total - run.step) * seconds / steps)
