"""A run in a process of its own, which may be ended early (no torch)."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_GRACE_S = 60.0
# What belongs to the process that starts the run, not to the run.
_FOREIGN = ("MMLIGHT_RUN_OWNER", "PL_GLOBAL_SEED", "PL_SEED_WORKERS")


@dataclass(frozen=True)
class Ended:
    """How a run's process ended.

    Attributes:
        code: its exit code; negative for a signal.
        stopped: whether it was ended by the one who started it.
    """

    code: int
    stopped: bool


def run_child(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    folder: Path | None = None,
    log: Path | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    poll_s: float = 2.0,
) -> Ended:
    """Run ``python -P -m mmlight`` with these arguments, and wait for it.

    Ctrl-C reaches the run too, which then writes its summary; any other error here ends it.

    Args:
        arguments: of ``mmlight``.
        environment: variables beside those of this process.
        folder: where it runs; None for the current one.
        log: a file that what it prints is appended to; None for this process's own output.
        should_stop: asked now and then; True ends the run (SIGTERM; SIGKILL a minute later).
        poll_s: the time between two questions.
    """
    # -P: the package is the one that this process or PYTHONPATH names, not one in the folder.
    command = [sys.executable, "-P", "-m", "mmlight", *arguments]
    own = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    output = None if log is None else log.open("ab")
    stopped = False
    try:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**own, **environment}, cwd=folder
        )
        try:
            while process.poll() is None:
                try:
                    process.wait(poll_s)
                except subprocess.TimeoutExpired:
                    if not stopped and should_stop():
                        stopped = True
                        _end(process)
        except BaseException:
            _end(process)
            raise
        return Ended(process.returncode, stopped)
    finally:
        if output is not None:
            output.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
