"""Signals that ask a run to stop (USR1: soon, TERM: now, INT: Ctrl-C), acted on between two steps.

Handlers only set a flag. They are installed before torch is imported, which takes seconds in which
a signal would otherwise end the process. Ctrl-C is answered at once, also while the main thread
computes; the second one ends the process there and then.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import active_children, parent_process
from types import FrameType
from typing import Any, ClassVar

from mmlight.terminal import note

GUARD = "MMLIGHT_GUARD"
INT = "INT"
# What shells say of a command that Ctrl-C ended.
INTERRUPTED = 128 + signal.SIGINT
# By urgency: where ranks hear different ones, all act on the greatest.
NAMES = {1: "USR1", 2: "TERM", 3: INT}
_CODES = {signal.SIGUSR1: 1, signal.SIGTERM: 2, signal.SIGINT: 3}
# For all that is done before a process leaves at once, file servers that hang included.
_LEAVE_WITHIN_S = 1.0


class Interrupted(BaseException):
    """Ctrl-C where nothing is saved.

    It is no KeyboardInterrupt: Lightning swallows that, is deaf to further ones while it ends, and
    leaves with code 1.
    """


class _Noted:
    """What this process has been sent; a forked child has been sent nothing."""

    code = 0
    owner = 0
    num_interrupts = 0
    imports = False
    before_leaving: Callable[[], None] | None = None
    handlers: ClassVar[dict[int, Any]] = {}
    pipe = -1
    listener: threading.Thread | None = None


def is_wanted(environ: Mapping[str, str]) -> bool | None:
    """Return whether a training should be handed on when it is told to stop.

    Args:
        environ: `MMLIGHT_GUARD` is 1 or 0 by a user's choice; without it, under SLURM only.

    Returns:
        Whether it should; None where nobody says: it saves and ends, and nobody goes on with it.
    """
    asked = environ.get(GUARD)
    return asked == "1" if asked is not None else "SLURM_JOB_ID" in environ or None


def note_signals() -> None:
    """Note USR1, TERM and INT from now on, instead of dying of them; call it in the main thread."""
    answer_interrupts()
    if are_noted():
        for number in (signal.SIGUSR1, signal.SIGTERM):
            _handle(number)


def answer_interrupts() -> None:
    """Answer Ctrl-C from now on: the first one raises `Interrupted`, the second one leaves at once.

    Call it in the main thread; in others Python knows no signals, and this does nothing.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if _Noted.owner == os.getpid() or not is_main:
        return
    _Noted.owner, _Noted.code, _Noted.num_interrupts = os.getpid(), 0, 0
    _Noted.before_leaving, _Noted.imports = None, False
    _Noted.handlers.clear()
    reader, _Noted.pipe = os.pipe()
    os.set_blocking(_Noted.pipe, False)
    signal.set_wakeup_fd(_Noted.pipe, warn_on_full_buffer=False)
    _Noted.listener = threading.Thread(
        target=_answer, args=(reader,), name="interrupts", daemon=True
    )
    _Noted.listener.start()
    _handle(signal.SIGINT)


def leave_to_others(numbers: Iterable[int] = (signal.SIGUSR1, signal.SIGTERM)) -> None:
    """Note USR1 and TERM no more."""
    for number in numbers:
        if number in _Noted.handlers:
            signal.signal(number, _Noted.handlers.pop(number))


def stop_noting() -> None:
    """Have all signals handled as they were before; for one who goes on in the same process."""
    if not are_noted():
        return
    leave_to_others(list(_Noted.handlers))
    signal.set_wakeup_fd(-1)
    os.close(_Noted.pipe)
    _Noted.owner, _Noted.code, _Noted.num_interrupts = 0, 0, 0


def are_noted() -> bool:
    """Return whether this process notes signals."""
    return _Noted.owner == os.getpid()


def noted() -> int:
    """Return the most urgent signal so far: a key of `NAMES`, or 0."""
    return _Noted.code if are_noted() else 0


@contextmanager
def leaving_imports() -> Iterator[None]:
    """Have the first Ctrl-C leave at once: an import that is broken off may fail in other ways.

    Some libraries swallow the exception, and try the same import until the stack is full.
    """
    _Noted.imports = True
    try:
        yield
    finally:
        _Noted.imports = False


def is_interrupted() -> bool:
    """Return whether Ctrl-C has come."""
    return NAMES.get(noted()) == INT


def save_first(before_leaving: Callable[[], None]) -> None:
    """Only note Ctrl-C from now on, since the caller looks at `noted`, saves and ends.

    Args:
        before_leaving: called before a second one leaves at once, for a second at most.
    """
    _Noted.before_leaving = before_leaving


def nothing_to_save() -> None:
    """Have Ctrl-C raise `Interrupted` again."""
    _Noted.before_leaving = None


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

    SLURM signals every process of a job, and a terminal all that run in it. A worker ignores USR1
    and INT, and TERM unless its parent sent it: the parent still needs batches until it has stopped
    between two steps.
    """
    for number in (signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    parent = parent_process()
    if parent is None:
        return
    # torch's own handler for TERM, in C, ends the worker whoever sent it; a blocked signal does not
    # come to it, and tells who sent it when waited for.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_obey, args=(parent.pid,), daemon=True).start()


def may_fork() -> bool:
    """Return whether no thread may hold a lock that a forked child would wait for in vain.

    The one that listens for Ctrl-C holds none. On macOS, libraries of the system have threads of
    their own, and end a child that uses them.
    """
    harmless = {threading.current_thread(), _Noted.listener}
    return sys.platform == "linux" and harmless.issuperset(threading.enumerate())


def is_first_rank() -> bool:
    """Return whether this process speaks for all of its training."""
    ranks = ("RANK", "LOCAL_RANK", "SLURM_PROCID")  # as torchrun, Lightning and SLURM set them
    return all(os.environ.get(name, "0") == "0" for name in ranks)


def _note(number: int, frame: FrameType | None) -> None:
    if os.getpid() != _Noted.owner:
        return
    _Noted.code = max(_Noted.code, _CODES[signal.Signals(number)])
    if number == signal.SIGINT and _Noted.before_leaving is None and not _Noted.imports:
        raise Interrupted


def _handle(number: int) -> None:
    if number not in _Noted.handlers:
        _Noted.handlers[number] = signal.signal(number, _note)


def _answer(pipe: int) -> None:
    """Hear of signals as they come: the main thread may be within a long computation, or hang."""
    while numbers := os.read(pipe, 64):  # empty when the other end is closed
        for _ in range(numbers.count(signal.SIGINT)):
            _Noted.num_interrupts += 1
            if _Noted.num_interrupts > 1 or _Noted.imports:
                _leave("left at once" if _Noted.num_interrupts > 1 else "stopped by Ctrl-C")
            doing = "stops" if _Noted.before_leaving is None else "saves after this step and stops"
            if is_first_rank():
                with suppress(Exception):
                    note(f"Ctrl-C: {doing}; once more, and it leaves at once")
    os.close(pipe)


def _leave(line: str) -> None:
    timer = threading.Timer(_LEAVE_WITHIN_S, os._exit, (INTERRUPTED,))
    timer.daemon = True
    timer.start()
    with suppress(Exception):
        if sys.stdout.isatty():
            os.write(1, b"\x1b[?25h\n")  # the cursor, which a bar has hidden
        if is_first_rank():
            os.write(2, f"mmlight: {line}\n".encode())
        if _Noted.before_leaving is not None:
            _Noted.before_leaving()
        for worker in active_children():  # they look for their parent every five seconds only
            worker.kill()
    os._exit(INTERRUPTED)


def _forget() -> None:
    """Have a forked child die of Ctrl-C, and not speak for its parent, whose pipe it shares."""
    if _Noted.owner and signal.getsignal(signal.SIGINT) is _note:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.SIG_DFL)


os.register_at_fork(after_in_child=_forget)


def _obey(parent: int | None) -> None:
    while True:
        if signal.sigwaitinfo({signal.SIGTERM}).si_pid == parent:
            os._exit(0)
