"""One index per shard: where every member lies, so that any sample is one read away.

An index lies beside its shard (``00000.tar.index``) or, where that folder is read-only or
``MMLIGHT_INDEX_DIR`` is set, in a cache folder. It is built when first needed and again when the
shard's size or time changes.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mmlight.data import index_file, probe, tar
from mmlight.data.index_file import ShardIndex
from mmlight.errors import UserError
from mmlight.terminal import Terminal, say

DEFAULT_MAX_MEMBER_BYTES = 256 << 20
# Starting processes takes about a second, as much as indexing a few shards.
_MIN_SHARDS_FOR_PROCESSES = 8


def load_or_build(
    paths: Iterable[Path],
    *,
    cache_dir: Path | None = None,
    workers: int | None = None,
    progress: bool = True,
    max_member_bytes: int = DEFAULT_MAX_MEMBER_BYTES,
    rebuild: bool = False,
) -> list[ShardIndex]:
    """Return the index of every shard, in order, building those that are missing or out of date.

    Several processes may do this for the same shards at once: each puts a whole file in place.

    Args:
        paths: shards, as `mmlight.data.shards.expand` gives them.
        cache_dir: where indexes go whose shard lies in a read-only folder; by default
            ``~/.cache/mmlight/index``. The environment variable ``MMLIGHT_INDEX_DIR`` names a
            folder for all indexes, also of shards in writable folders.
        workers: processes that build if there are 8 shards or more to do; by default one per CPU
            core, at most 16.
        progress: show what is going on: a bar on a terminal, else one line.
        max_member_bytes: refuse a shard with a larger member.
        rebuild: build all anew.

    Raises:
        UserError: a shard is damaged, empty, compressed or no tar file.
    """
    paths = list(paths)

    def find(path: Path) -> ShardIndex | None:
        status = _stat(path)
        for index in index_file.load(path, cache_dir=cache_dir):
            is_same_file = (index.num_bytes, index.mtime_ns) == (status.st_size, status.st_mtime_ns)
            if is_same_file and index.largest_member <= max_member_bytes:
                return index
        return None

    found: list[ShardIndex | None] = [None] * len(paths)
    with ThreadPoolExecutor(16) as threads:  # a network file system answers slowly
        if not rebuild:
            found = list(threads.map(find, paths))
        todo = [path for path, index in zip(paths, found, strict=True) if index is None]
        if not todo:
            return [index for index in found if index is not None]
        workers = workers or min(16, len(os.sched_getaffinity(0)))
        with _Progress(todo, shown=progress) as shown:
            if workers == 1 or len(todo) < _MIN_SHARDS_FOR_PROCESSES:
                for path in todo:
                    build(path, cache_dir=cache_dir, max_member_bytes=max_member_bytes)
                    shown.advance()
            else:
                options = {
                    "cache_dir": str(cache_dir) if cache_dir else None,
                    "max_member_bytes": max_member_bytes,
                }
                _build_in_processes(todo, options, min(workers, len(todo)), shown.advance)
        built = dict(zip(todo, threads.map(find, todo), strict=True))
    indexes = [index or built[path] for path, index in zip(paths, found, strict=True)]
    for path, index in zip(paths, indexes, strict=True):
        if index is None:
            raise UserError(f"shard {path} changed while it was read; wait until it is written")
    return [index for index in indexes if index is not None]


def build(
    path: Path,
    *,
    cache_dir: Path | None = None,
    max_member_bytes: int = DEFAULT_MAX_MEMBER_BYTES,
) -> ShardIndex:
    """Read a shard from end to end and store its index; see `load_or_build`."""
    before = _stat(path)
    try:
        sha256 = digest(path)  # first, for it reads in order and so fills the page cache
    except OSError as error:
        raise _unreadable(path, error) from error
    samples, num_ignored = tar.read_samples(path, max_member_bytes=max_member_bytes)
    extensions = Counter(extension for sample in samples for extension in sample.members)
    batch = _tabulate(path, samples, list(extensions))
    after = _stat(path)
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise UserError(f"shard {path} changed while it was read; wait until it is written")
    summary: dict[str, Any] = {
        "num_samples": len(samples),
        "num_bytes": before.st_size,
        "mtime_ns": before.st_mtime_ns,
        "sha256": sha256,
        "extensions": dict(extensions),
        "largest_member": max(m.size for sample in samples for m in sample.members.values()),
        "num_ignored": num_ignored,
    }
    return index_file.store(path, batch, summary, cache_dir=cache_dir)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"shard {path} can't be read: {error.strerror}")


def _tabulate(path: Path, samples: list[tar.Sample], extensions: list[str]) -> pa.RecordBatch:
    """Arrange samples as `index_file.Rows` reads them."""
    number = {extension: i for i, extension in enumerate(extensions)}
    members = [item for sample in samples for item in sample.members.items()]
    start = np.cumsum([0] + [len(sample.members) for sample in samples], dtype=np.int32)
    flat = {
        "extension": pa.array([number[extension] for extension, _ in members], pa.int32()),
        "offset": pa.array([member.offset for _, member in members], pa.int64()),
        "size": pa.array([member.size for _, member in members], pa.int64()),
    }
    durations, sizes = _probe(path, samples)
    columns = {
        "key": pa.array([sample.key for sample in samples], pa.string()),
        "members": pa.ListArray.from_arrays(
            pa.array(start), pa.StructArray.from_arrays(list(flat.values()), names=list(flat))
        ),
        "duration_s": pa.array(durations, pa.float32()),
        "width": pa.array([width for width, _ in sizes], pa.int32()),
        "height": pa.array([height for _, height in sizes], pa.int32()),
    }
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def _probe(path: Path, samples: list[tar.Sample]) -> tuple[list[float], list[tuple[int, int]]]:
    """Read duration and size of the first sound and the first image of each sample."""
    durations = [float("nan")] * len(samples)
    sizes = [(0, 0)] * len(samples)
    with open(path, "rb", buffering=0) as file:
        for i, sample in enumerate(samples):
            first: dict[probe.Kind, tar.Member] = {}
            for extension, member in sample.members.items():
                first.setdefault(probe.kind(extension), member)
            if sound := first.get("audio"):
                durations[i] = probe.duration_s(os.pread(file.fileno(), sound.size, sound.offset))
            if image := first.get("image"):
                sizes[i] = probe.image_size(os.pread(file.fileno(), image.size, image.offset))
    return durations, sizes


def _build_in_processes(
    paths: Sequence[Path], options: dict[str, Any], workers: int, done: Callable[[], None]
) -> None:
    """Build in processes of our own.

    Not `multiprocessing`: fork is unsafe once torch and Arrow have threads, and spawn runs the
    caller's script again unless it guards its main part.
    """
    processes: list[subprocess.Popen[str]] = []

    def serve(share: Sequence[Path]) -> None:
        command = [sys.executable, "-m", "mmlight.data.index"]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, encoding="utf-8") as process:
            processes.append(process)
            assert process.stdin and process.stdout
            process.stdin.write(json.dumps(options | {"paths": [str(path) for path in share]}))
            process.stdin.close()
            for line in process.stdout:
                if error := json.loads(line):
                    raise UserError(error)
                done()
        if process.returncode:
            raise RuntimeError(f"a process that indexes shards failed: {process.returncode}")

    with ThreadPoolExecutor(workers) as threads:
        futures = [threads.submit(serve, paths[i::workers]) for i in range(workers)]
        try:
            for future in as_completed(futures):
                future.result()
        finally:
            for process in processes:
                process.kill()


def _work() -> None:
    """Build the shards named on stdin; per shard a line on stdout: null, or what is wrong."""
    request = json.load(sys.stdin)
    cache_dir = Path(request["cache_dir"]) if request["cache_dir"] else None
    for path in request["paths"]:
        error = None
        try:
            build(Path(path), cache_dir=cache_dir, max_member_bytes=request["max_member_bytes"])
        except UserError as problem:
            error = str(problem)
        say(json.dumps(error))


class _Progress:
    """A bar on a terminal, one line elsewhere (a log file), nothing if not shown."""

    def __init__(self, paths: Sequence[Path], *, shown: bool) -> None:
        from rich.progress import Progress

        is_live = shown and sys.stderr.isatty()
        self._bar = Progress(console=Terminal(stderr=True), disable=not is_live, transient=True)
        text = f"Indexing {len(paths)} shard{'s' * (len(paths) != 1)} (once)"
        self._task = self._bar.add_task(text, total=len(paths))
        if shown and not is_live:
            say(f"{text}, the first is {paths[0]}", file=sys.stderr)

    def __enter__(self) -> "_Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self) -> None:
        self._bar.advance(self._task)


if __name__ == "__main__":
    _work()
