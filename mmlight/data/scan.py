"""One walk over samples for whoever looks at each of them: on all cores, in order, with a bar."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

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
) -> Iterator[tuple[T, R]]:
    """Yield each item with what `look` makes of it, in the order of the items.

    In threads: reading, decoding and hashing let go of Python's lock.

    Args:
        items: numbers of samples, say; taken as they are needed.
        look: called in a thread; what it raises ends the walk where its item's turn comes.
        what: is done, for the bar on a terminal, such as ``Checking``.
        total: number of items, where it is known.
        workers: threads; by default one per core.
        chunk: items of a task; few where what is made of them is large.
        shown: whether there is a bar.
    """
    workers = workers or len(os.sched_getaffinity(0))
    rest = iter(items)
    waiting: deque[tuple[list[T], Future[list[R]]]] = deque()

    def look_at(part: list[T]) -> list[R]:
        return [look(item) for item in part]

    with ThreadPoolExecutor(workers) as threads, bar(what, total, shown=shown) as advance:
        try:
            while True:
                while len(waiting) < workers * _AHEAD and (part := list(islice(rest, chunk))):
                    waiting.append((part, threads.submit(look_at, part)))
                if not waiting:
                    return
                part, done = waiting.popleft()
                yield from zip(part, done.result(), strict=True)
                advance(len(part))
        finally:
            threads.shutdown(wait=False, cancel_futures=True)


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
