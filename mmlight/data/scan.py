"""One walk over samples for whoever looks at each of them: on all cores, in order, with a bar."""

import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context
from typing import TypeVar

from mmlight.errors import UserError
from mmlight.signals import may_fork
from mmlight.terminal import Terminal

T = TypeVar("T")
R = TypeVar("R")

# A task for each of a million tiny samples would take longer than what is done with them.
_CHUNK = 16
# Chunks in flight for each thread: results wait for those before them.
_AHEAD = 4


def scan(
    items: Iterable[T],
    look: Callable[[T], R],
    *,
    what: str,
    total: int | None = None,
    workers: int | None = None,
    chunk: int = _CHUNK,
    shown: bool = True,
    processes: bool = False,
    size: Callable[[T], int] = lambda item: 1,
) -> Iterator[tuple[T, R]]:
    """Yield each item with what `look` makes of it, in the order of the items.

    In threads: reading, decoding and hashing let go of Python's lock. With tiny samples they wait
    for one another all the same, and processes are faster.

    Args:
        items: numbers of samples, say; taken as they are needed.
        look: called in a thread; what it raises ends the walk where its item's turn comes.
        what: is done, for the bar on a terminal, such as ``Checking``.
        total: number of items, or of what they hold, where it is known.
        workers: threads or processes; by default one per core.
        chunk: items of a task; few where what is made of them is large.
        shown: whether there is a bar.
        processes: work in processes; `look` is a function of a module then, and it, items and
            results can be pickled.
        size: how much of the total an item is.

    Raises:
        UserError: the system has killed one of the processes.
    """
    workers = workers or len(os.sched_getaffinity(0))
    rest = iter(items)
    waiting: deque[tuple[list[T], Future[list[R]]]] = deque()
    pool = in_processes(workers) if processes else ThreadPoolExecutor(workers)
    with pool as workmen, bar(what, total, shown=shown) as advance:
        try:
            while True:
                while len(waiting) < workers * _AHEAD and (part := list(islice(rest, chunk))):
                    waiting.append((part, workmen.submit(_look_at, look, part)))
                if not waiting:
                    return
                part, done = waiting.popleft()
                yield from zip(part, done.result(), strict=True)
                advance(sum(map(size, part)))
        except BrokenProcessPool as error:
            raise UserError(
                f"{what}: the system has killed a process, which may be for want of memory; try "
                "--workers with a smaller number"
            ) from error
        finally:
            workmen.shutdown(cancel_futures=True)


def _look_at(look: Callable[[T], R], part: list[T]) -> list[R]:
    return [look(item) for item in part]


def in_processes(workers: int) -> Executor:
    """Return a pool of processes, which have begun.

    They are forked, which takes no time, as long as there is no other thread, such as that of a
    progress bar: it may hold a lock at the moment of a fork. Else they are spawned, and import
    everything again. Ctrl-C is for this process: each of the others would print a traceback of its
    own.

    Args:
        workers: how many.
    """
    pool = ProcessPoolExecutor(
        workers,
        mp_context=get_context("fork" if may_fork() else "spawn"),
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),
    )
    pool.submit(int)
    return pool


@contextmanager
def bar(what: str, total: int | None, *, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """Show a bar on standard error where that is a terminal; yield what advances it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Left

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Left())
    is_live = shown and sys.stderr.isatty()
    console = Terminal(stderr=True)
    with Progress(*columns, console=console, disable=not is_live, transient=True) as live:
        task = live.add_task(what, total=total)
        yield lambda count: live.advance(task, count)
