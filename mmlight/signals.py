"""Signals that ask a run to stop (USR1: soon, TERM: now): noted here, acted on between two steps.

Handlers only set a flag. They are installed before torch is imported, which takes seconds in which
a signal would otherwise end the process.
"""

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import parent_process
from types import FrameType

GUARD = "MMLIGHT_GUARD"
# By urgency: where ranks hear different ones, all act on the greatest.
NAMES = {1: "USR1", 2: "TERM"}
_CODES = {signal.SIGUSR1: 1, signal.SIGTERM: 2}


class _Noted:
    """What this process has been sent; a forked child has been sent nothing."""

    code = 0
    owner = 0


def is_wanted(environ: Mapping[str, str]) -> bool:
    """Return whether a training should be handed on when it is told to stop.

    Args:
        environ: `MMLIGHT_GUARD` is 1 or 0 by a user's choice; without it, under SLURM only.

    Returns:
        Whether it should.
    """
    asked = environ.get(GUARD)
    return asked == "1" if asked is not None else "SLURM_JOB_ID" in environ


def note_signals() -> None:
    """Note USR1 and TERM from now on, instead of dying of them; call it in the main thread."""
    if _Noted.owner == os.getpid():
        return
    _Noted.owner, _Noted.code = os.getpid(), 0
    for number in _CODES:
        signal.signal(number, _note)


def are_noted() -> bool:
    """Return whether this process notes signals."""
    return _Noted.owner == os.getpid()


def noted() -> int:
    """Return the most urgent signal so far: a key of `NAMES`, or 0."""
    return _Noted.code if are_noted() else 0


@contextmanager
def held() -> Iterator[None]:
    """Let signals wait while workers are forked, which then begin with them blocked.

    Libraries start threads in a child before any code of ours runs there (Arrow does), and a signal
    goes to whichever thread does not block it: `shield_worker` would come too late for these.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _CODES)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def shield_worker() -> None:
    """Keep a worker process alive through signals that are meant for its parent; call it there.

    SLURM signals every process of a job. A worker ignores USR1, and TERM unless its parent sent it:
    the parent still needs batches until it has stopped between two steps.
    """
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    parent = parent_process()
    if parent is None:
        return
    # torch's own handler for TERM, in C, ends the worker whoever sent it; a blocked signal does not
    # come to it, and tells who sent it when waited for.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_obey, args=(parent.pid,), daemon=True).start()


def _note(number: int, frame: FrameType | None) -> None:
    if os.getpid() == _Noted.owner:
        _Noted.code = max(_Noted.code, _CODES[signal.Signals(number)])


def _obey(parent: int | None) -> None:
    while True:
        if signal.sigwaitinfo({signal.SIGTERM}).si_pid == parent:
            os._exit(0)
