"""What is left of a training that Ctrl-C ended before there was anything to save."""

from contextlib import suppress

from mmlight.runs.run.attempts import append_event
from mmlight.runs.run.find import go_on_command
from mmlight.runs.run.folder import RunFolder
from mmlight.signals import INT


def note_interrupt(run: RunFolder) -> str:
    """Note in a run's log of attempts that it was started, and return what to tell of it.

    Without that, a later ``--ckpt_path last`` would take the run before it.

    Args:
        run: the run.
    """
    step = run.checkpoint_step()
    with suppress(OSError):
        append_event(run.path, "end", step=step, reason=INT, hand_on=False)
    if step:
        return f"stopped by Ctrl-C; to go on from step {step:,}: {go_on_command(run)}"
    return "stopped by Ctrl-C before its first step; there is nothing to save"
