"""Fetches remote shards before their samples are needed.

Which those are is told by the order itself: what comes after a position is a pure function. It is
done in a process of its own, beside the workers: threads in this one would be forked with them, and
downloads would take turns with training for Python's lock. Whoever needs a shard that is not there
yet waits for its download, or does it.
"""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmlight.data.order.cursor import TrainOrder
from mmlight.data.order.evaluation import EvalOrder, ListedOrder
from mmlight.data.shards.cache import ShardCache, touch
from mmlight.data.shards.corpus import Corpus
from mmlight.data.shards.remote import Remote
from mmlight.errors import UserError
from mmlight.signals import held, is_first_rank
from mmlight.terminal import note

_MOST_STEPS, _STEPS_AT_ONCE = 20_000, 256
# Steps without a shard after which it may go, and come again.
_GAP = 8
_LOOK_EVERY_S, _PAUSE_S = 1.0, 0.03
# Of the limit; the rest is for evaluations between epochs, or for training.
_SHARE = 0.8


@dataclass(frozen=True)
class Lookup:
    """Which shards a batch needs.

    Attributes:
        order: of samples.
        starts: the first sample of each shard.
        rank: this process.
        world_size: all of them.
    """

    order: TrainOrder | EvalOrder | ListedOrder
    starts: np.ndarray
    rank: int
    world_size: int

    @property
    def num_batches(self) -> int | None:
        """How many there are; None if there is no end."""
        if isinstance(self.order, EvalOrder | ListedOrder):
            return self.order.num_batches(self.world_size)
        return None

    def shards(self, number: int) -> list[int]:
        """Return the shards of a batch, each once."""
        place = {"rank": self.rank, "world_size": self.world_size}
        if isinstance(self.order, EvalOrder | ListedOrder):
            samples = self.order.batch(number, **place)[0]
        else:
            samples = self.order.batch(*divmod(number, self.order.steps_per_epoch), **place)
        found = np.searchsorted(self.starts, samples, side="right") - 1
        return list(dict.fromkeys(found.tolist()))


class Window:
    """The shards that are needed from a batch on, the next one first."""

    def __init__(self, lookup: Lookup, sizes: Sequence[int], *, most_bytes: int) -> None:
        """Look ahead.

        Args:
            lookup: what each batch needs.
            sizes: bytes of each shard; 0 of one that is not to be fetched.
            most_bytes: of the shards of a window, unless the first batch needs more.
        """
        self._lookup, self._sizes, self._most_bytes = lookup, sizes, most_bytes
        self._begin(0)

    def _begin(self, number: int) -> None:
        self._at = self._next = number
        # Steps in a row that need a shard: shard, first and last, in the order of the first.
        self._runs: deque[list[int]] = deque()
        self._newest: dict[int, list[int]] = {}
        self._num_runs: Counter[int] = Counter()
        self._num_bytes = 0

    def at(self, number: int) -> list[int]:
        """Return the shards that are needed from a batch on, as far as looked up by now.

        Each call looks further ahead, so that the first one answers at once.
        """
        if not self._at <= number <= self._next:
            self._begin(number)
        self._at = number
        for run in [run for run in self._runs if run[2] < number]:
            self._drop(run)
        end = min(number + _MOST_STEPS, self._next + _STEPS_AT_ONCE)
        if (most := self._lookup.num_batches) is not None:
            end = min(end, most)
        while self._next < end and self._num_bytes < self._most_bytes:
            for shard in self._lookup.shards(self._next):
                if self._sizes[shard]:
                    self._add(shard, self._next)
            self._next += 1
        total = 0
        within: list[int] = []
        for shard in dict.fromkeys(run[0] for run in self._runs):
            total += self._sizes[shard]
            if total > self._most_bytes and within:
                break
            within.append(shard)
        return within

    def _add(self, shard: int, step: int) -> None:
        run = self._newest.get(shard)
        if run is not None and step - run[2] <= _GAP:
            run[2] = step
            return
        self._newest[shard] = [shard, step, step]
        self._runs.append(self._newest[shard])
        if not self._num_runs[shard]:
            self._num_bytes += self._sizes[shard]
        self._num_runs[shard] += 1

    def _drop(self, run: list[int]) -> None:
        shard = run[0]
        self._runs.remove(run)
        self._num_runs[shard] -= 1
        if not self._num_runs[shard]:
            del self._newest[shard]
            self._num_bytes -= self._sizes[shard]


@dataclass(frozen=True)
class _Plan:
    lookup: Lookup
    shards: list[tuple[Remote | None, str]]
    cache: ShardCache
    most_bytes: int


class Ahead:
    """The process that fetches shards; it does nothing where all are local.

    It ends with this one, and a run goes on without it.
    """

    def __init__(
        self, corpus: Corpus, order: Any, *, rank: int, world_size: int, on_node: int = 1
    ) -> None:
        """Note what is to be fetched; the process starts with the first position.

        Args:
            corpus: the samples.
            order: of the samples.
            rank: this process.
            world_size: all of them.
            on_node: how many of them share a cache.
        """
        shards = [
            (shard.path if isinstance(shard.path, Remote) else None, shard.sha256)
            for shard in corpus.shards
        ]
        far = next((shard for shard, _ in shards if shard is not None), None)
        self._plan: _Plan | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._has_told = False
        if far is not None:
            # Batches that are sorted within a pool need the shards of the order that they are of.
            lookup = Lookup(getattr(order, "sorted", order), corpus.starts, rank, world_size)
            most_bytes = int(far.cache.max_bytes * _SHARE / on_node)
            self._plan = _Plan(lookup, shards, far.cache, most_bytes)

    def at(self, number: int) -> None:
        """Tell which batch comes next."""
        if self._plan is None:
            return
        if self._process is None:
            self._tell_of_room(self._plan, number)
            self._process = self._start(self._plan)
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(b"%d\n" % number)
            self._process.stdin.flush()

    def close(self) -> None:
        """End the process; the next position starts another one."""
        if self._process is not None:
            assert self._process.stdin is not None
            with suppress(BrokenPipeError):
                self._process.stdin.close()
            self._process.kill()
            self._process.wait()
            self._process = None

    def _tell_of_room(self, plan: _Plan, number: int) -> None:
        """Say once that a cache is too small: shards of one batch would take turns in it."""
        if self._has_told or not is_first_rank():
            return
        self._has_told = True
        at_once = plan.lookup.shards(number)
        needed = sum(far.num_bytes for n in at_once if (far := plan.shards[n][0]) is not None)
        if needed > plan.most_bytes and len(at_once) > 1:
            enough = 1.05 * needed / plan.most_bytes * plan.cache.max_bytes / 1e9
            note(
                f"data.cache.max_gb: a batch reads from {len(at_once)} shards, which do not fit "
                f"into the cache together and are downloaded again and again; give {enough:.2g} or "
                "more, or fewer lanes (data.num_lanes)"
            )

    def _start(self, plan: _Plan) -> subprocess.Popen[bytes]:
        # A group of its own, and deaf to what the job is sent: it ends when its input does.
        with held():
            process = subprocess.Popen(
                [sys.executable, "-m", "mmlight.data.order.ahead"],
                stdin=subprocess.PIPE,
                process_group=0,
            )
        assert process.stdin is not None
        # Between processes of ours: what is unpickled there was pickled here.
        with suppress(BrokenPipeError):
            pickle.dump(plan, process.stdin)
        return process


class _Fetcher:
    """Downloads the shards of a window, the next ones first."""

    def __init__(self, plan: _Plan, done: threading.Event) -> None:
        self._done = done
        self._places: dict[int, Path] = {}
        self._shards = plan.shards
        self._most = plan.cache.downloads
        self._threads = ThreadPoolExecutor(self._most)
        self._running: dict[int, Future[None]] = {}
        # What can't be fetched: whoever needs it says why, and stops the run.
        self._failed: set[int] = set()

    def fetch(self, window: Iterable[int]) -> None:
        """Begin what is missing, as many at a time as may be, and keep what is there."""
        self._running = {n: one for n, one in self._running.items() if not one.done()}
        places = {number: self._place(number) for number in window}
        missing = [number for number, place in places.items() if not place.exists()]
        for number in reversed(places):  # of what is there, the next one is to be the newest
            touch(places[number])
        kept = {place.name for place in places.values()}
        for number in missing:
            if len(self._running) >= self._most:
                break
            if number not in self._running and number not in self._failed:
                self._running[number] = self._threads.submit(self._one, number, kept)
                self._running[number].add_done_callback(lambda _: self._done.set())

    def _place(self, number: int) -> Path:
        if number not in self._places:
            shard = self._shards[number][0]
            assert shard is not None
            self._places[number] = shard.place()
        return self._places[number]

    def _one(self, number: int, kept: set[str]) -> None:
        shard, sha256 = self._shards[number]
        assert shard is not None
        try:
            shard.fetch(sha256=sha256, kept=kept)
        except UserError:
            self._failed.add(number)


def _work() -> None:
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    plan: _Plan = pickle.load(sys.stdin.buffer)
    sizes = [0 if shard is None else shard.num_bytes for shard, _ in plan.shards]
    told = threading.Event()
    window, fetcher = Window(plan.lookup, sizes, most_bytes=plan.most_bytes), _Fetcher(plan, told)
    at = -1

    def listen() -> None:
        nonlocal at
        for line in sys.stdin.buffer:
            at = int(line)
            told.set()
        os._exit(0)  # whatever is going on: a part is continued by the next one

    threading.Thread(target=listen, daemon=True).start()
    told.wait()
    while True:
        fetcher.fetch(window.at(at))
        time.sleep(_PAUSE_S)
        told.wait(_LOOK_EVERY_S)
        told.clear()


if __name__ == "__main__":
    _work()
