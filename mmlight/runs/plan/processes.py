"""Runs in processes of their own on this machine, some at a time, which end with this one."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from mmlight.runs.run.folder import Run
from mmlight.runs.run.ids import RUN_ID

Key = TypeVar("Key")
_GRACE_S = 60.0
# What belongs to the process that starts the run, not to the run.
_FOREIGN = ("MMLIGHT_RUN_OWNER", "PL_GLOBAL_SEED", "PL_SEED_WORKERS")


@dataclass(frozen=True)
class Command:
    """What one run is started by.

    Attributes:
        arguments: of ``mmlight``.
        environment: variables beside those of this process.
        folder: where it runs; None for the current one.
        log: a file that what it prints is appended to; None for this process's own output.
    """

    arguments: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    log: Path | None = None

    def start(self, **more: str) -> "subprocess.Popen[bytes]":
        """Start ``python -P -m mmlight``.

        Args:
            more: further variables, where they are not set.
        """
        # -P: the package is the one that this process or PYTHONPATH names, not one in the folder.
        words = [sys.executable, "-P", "-m", "mmlight", *self.arguments]
        own = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
        environment = {**more, **own, **self.environment}
        with self.log.open("ab") if self.log else nullcontext() as log:
            return subprocess.Popen(words, stdout=log, stderr=log, env=environment, cwd=self.folder)


def command_of(run: Run, arguments: Sequence[str], *, log: Path) -> Command:
    """Return what starts a run, or goes on with it from its newest checkpoint.

    Args:
        run: the run.
        arguments: of ``mmlight``, which begin it.
        log: a file that what it prints is appended to.
    """
    more = ["--ckpt_path", "last"] if run.newest_checkpoint() is not None else []
    # An id of this process's own surroundings (a SLURM job) is not the run's.
    return Command([*arguments, *more], environment={RUN_ID: run.id}, log=log)


@dataclass(frozen=True)
class Ended(Generic[Key]):
    """How a run's process ended.

    Attributes:
        key: which run it was.
        code: its exit code; negative for a signal.
        stopped: whether it was ended by the one who started it.
    """

    key: Key
    code: int
    stopped: bool


def run_all(
    commands: Iterable[tuple[Key, Command]],
    *,
    jobs: int = 1,
    should_stop: Callable[[], bool] = lambda: False,
    poll_s: float = 0.5,
) -> Generator[Ended[Key]]:
    """Run commands, at most `jobs` at a time; yield each when it has ended.

    Ctrl-C reaches the runs too, which then write their summaries; any other error here ends them.

    Args:
        commands: what to run, each under a key.
        jobs: how many at the same time.
        should_stop: asked now and then; True ends the runs (SIGTERM; SIGKILL a minute later).
        poll_s: the time between two questions.
    """
    # Runs that each take all cores hinder one another.
    cores = len(os.sched_getaffinity(0))
    shared = {"OMP_NUM_THREADS": str(max(1, cores // jobs))} if jobs > 1 else {}
    waiting = iter(commands)
    running: list[tuple[Key, subprocess.Popen[bytes]]] = []
    try:
        while True:
            while len(running) < jobs and (command := next(waiting, None)) is not None:
                running.append((command[0], command[1].start(**shared)))
            if not running:
                return
            with suppress(subprocess.TimeoutExpired):
                running[0][1].wait(poll_s)
            stopped = all(process.poll() is None for _, process in running) and should_stop()
            if stopped:
                _end([process for _, process in running])
            for pair in [pair for pair in running if pair[1].poll() is not None]:
                running.remove(pair)
                yield Ended(pair[0], pair[1].returncode, stopped)
    finally:
        _end([process for _, process in running])


def run_one(
    command: Command, *, should_stop: Callable[[], bool] = lambda: False, poll_s: float = 2.0
) -> Ended[None]:
    """Run one command, and wait for it."""
    (ended,) = run_all([(None, command)], should_stop=should_stop, poll_s=poll_s)
    return ended


def _end(processes: list["subprocess.Popen[bytes]"]) -> None:
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def ends_on_term() -> Iterator[None]:
    """Turn SIGTERM into an exit that cleans up: runs that were started save and end."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def last_line(log: Path) -> str:
    """Return the last line that a run has printed."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("mmlight: ") if lines else "it printed nothing"
