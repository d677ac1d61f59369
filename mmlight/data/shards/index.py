"""One index per shard: where every member lies, so that any sample is one read away.

An index lies beside its shard (``00000.tar.index``) or, where that folder is read-only or
``MMLIGHT_INDEX_DIR`` is set, in that or in ``~/.cache/mmlight/index``. It is built when first
needed and again when the shard's size or time changes, or when the index is damaged.

The index of a remote shard lies beside it, too, where `publish` or a copy of the folder put it;
its beginning is fetched when a run starts, the rest when it is needed. Where there is none, the
shard is fetched and its index built in the cache of shards.
"""

import json
import logging
import math
import os
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmlight.data.decode import probe
from mmlight.data.shards import index_file, remote, seal, tar
from mmlight.data.shards.index_file import DamagedIndexError, OldIndexError, ShardIndex
from mmlight.data.shards.remote import Remote
from mmlight.data.shards.storage import OpenShard, Shard, State, state, unreadable
from mmlight.errors import UserError
from mmlight.terminal import Terminal, say

_log = logging.getLogger(__name__)

DEFAULT_MAX_MEMBER_BYTES = 256 << 20
# Starting processes takes about a second, as much as indexing a few shards.
_MIN_SHARDS_FOR_PROCESSES = 8
# A network file system answers slowly.
_NUM_THREADS = 16


def load_or_build(
    paths: Iterable[Shard],
    *,
    workers: int | None = None,
    progress: bool = True,
    max_member_bytes: int = DEFAULT_MAX_MEMBER_BYTES,
    rebuild: bool = False,
) -> list[ShardIndex]:
    """Return the index of every shard, in order, building those that are missing or out of date.

    Several processes may do this for the same shards at once: each puts a whole file in place.

    Args:
        paths: shards, as `mmlight.data.shards.paths.expand` gives them.
        workers: processes that build if there are 8 shards or more to do; by default one per CPU
            core, at most 16.
        progress: show what is going on: a bar on a terminal, else one line.
        max_member_bytes: refuse a shard with a larger member.
        rebuild: build all anew.

    Raises:
        UserError: a shard is damaged, empty, compressed or no tar file.
    """
    paths = list(paths)
    with ThreadPoolExecutor(_NUM_THREADS) as threads:
        known = _find_all(threads, paths, max_member_bytes)
        todo = [
            path for path, (index, _) in zip(paths, known, strict=True) if rebuild or index is None
        ]
        if not todo:
            return [index for index, _ in known if index is not None]
        workers = workers or min(16, len(os.sched_getaffinity(0)))
        with _progress(todo, shown=progress) as advance:
            if workers == 1 or len(todo) < _MIN_SHARDS_FOR_PROCESSES:
                for path in todo:
                    build(path, max_member_bytes=max_member_bytes)
                    advance()
            else:
                _build_in_processes(todo, max_member_bytes, min(workers, len(todo)), advance)
        found = _find_all(threads, todo, max_member_bytes)
    built = dict(zip(todo, (index for index, _ in found), strict=True))
    indexes = []
    for path, (index, stale) in zip(paths, known, strict=True):
        index = built.get(path, index)
        if index is None:
            raise UserError(f"shard {path} changed while it was read; wait until it is written")
        if stale is not None and stale.sha256 != index.sha256:
            _log.warning(
                "shard %s has another content than when it was indexed last "
                "(%d samples then, %d now)",
                *(path, stale.num_samples, index.num_samples),
            )
        indexes.append(index)
    return indexes


def _find_all(
    threads: ThreadPoolExecutor, paths: Sequence[Shard], max_member_bytes: int
) -> list[tuple[ShardIndex | None, ShardIndex | None]]:
    """Return for each shard the index that is up to date, and one that was there in any case."""

    def find(path: Shard) -> tuple[ShardIndex | None, ShardIndex | None]:
        now = state(path)
        stale = None
        for place in index_file.places(path):
            try:
                index = index_file.read(path, place)
            except (OSError, OldIndexError):
                continue
            except DamagedIndexError as error:
                _log.warning("index %s is damaged (%s); it is built anew", place, error)
                continue
            stale = stale or index
            is_same_file = State(index.num_bytes, index.mtime_ns) == now
            if is_same_file and index.largest_member <= max_member_bytes:
                return index, stale
        return None, stale

    # A task for each of 20,000 shards would take longer than what it does.
    share = -(-len(paths) // _NUM_THREADS) or 1
    parts = [paths[start : start + share] for start in range(0, len(paths), share)]
    found = threads.map(lambda part: [find(path) for path in part], parts)
    return [pair for part in found for pair in part]


def publish(indexes: Iterable[ShardIndex]) -> int:
    """Write indexes of remote shards beside them, where they are not yet; return how many.

    Stores that take nothing (web servers) are left as they are.

    Raises:
        UserError: a store refuses it.
    """

    def put(index: ShardIndex) -> int:
        shard = index.path
        if not isinstance(shard, Remote) or not remote.store_of(shard.url).can_write:
            return 0
        try:
            if index_file.fetch_summary(shard).sha256 == index.sha256:
                return 0
        except (OSError, DamagedIndexError):
            pass
        index.rows()  # whole, and whole in the cache
        assert isinstance(index.index_path, Path)
        remote.write(index_file.remote_url(shard), index.index_path.read_bytes(), cache=shard.cache)
        return 1

    return sum(remote.in_threads(put, indexes))


def restore(index: ShardIndex) -> ShardIndex:
    """Build the index of a shard anew that was found damaged or gone while in use.

    Raises:
        UserError: the shard has another content by now.
    """
    _log.warning("index %s is damaged; it is built anew", index.index_path)
    largest = max(DEFAULT_MAX_MEMBER_BYTES, index.largest_member)
    built = build(index.path, max_member_bytes=largest)
    if built.sha256 != index.sha256:
        raise UserError(f"shard {index.path} changed while it was in use; start the run again")
    return built


def build(path: Shard, *, max_member_bytes: int = DEFAULT_MAX_MEMBER_BYTES) -> ShardIndex:
    """Read a shard from end to end and store its index; see `load_or_build`."""
    before = state(path)
    try:
        with OpenShard(path) as file:
            sha256 = file.digest()  # first, for it reads in order and so fills the page cache
            samples, num_ignored = tar.read_samples(file, max_member_bytes=max_member_bytes)
            extensions = Counter(extension for sample in samples for extension in sample.members)
            columns = _tabulate(file, samples, list(extensions))
            if state(path) != before or file.state() != before:
                raise UserError(f"shard {path} changed while it was read; wait until it is written")
            sealed = seal.read(file)
    except OSError as error:
        raise unreadable(path, error) from error
    members = [member for sample in samples for member in sample.members.values()]
    if sealed is not None and sealed != seal.digest(
        (member.name, member.size, crc32)
        for member, crc32 in zip(members, columns["crc32"], strict=True)
    ):
        raise seal.broken(path)
    summary: dict[str, Any] = {
        "num_bytes": before.num_bytes,
        "mtime_ns": before.mtime_ns,
        "sha256": sha256,
        "extensions": dict(extensions),
        "largest_member": max(member.size for member in members),
        "num_ignored": num_ignored,
    }
    keys = [sample.key for sample in samples]
    return index_file.store(path, keys=keys, columns=columns, summary=summary)


def _tabulate(
    file: OpenShard, samples: list[tar.TarSample], extensions: list[str]
) -> dict[str, list[Any]]:
    """Read every member and arrange what the index says of samples and members."""
    number = {extension: i for i, extension in enumerate(extensions)}
    of_samples = ("members_each", "duration_s", "width", "height")
    of_members = ("extension", "offset", "size", "crc32")
    columns: dict[str, list[Any]] = {name: [] for name in of_samples + of_members}
    for sample in samples:
        duration_s, width, height = math.nan, 0, 0
        seen: set[probe.Kind] = set()
        for extension, member in sample.members.items():
            data = file.read(member.offset, member.size)
            kind = probe.kind(extension)
            if kind == "audio" and kind not in seen:
                duration_s = probe.duration_s(data)
            if kind == "image" and kind not in seen:
                width, height = probe.image_size(data)
            seen.add(kind)
            columns["extension"].append(number[extension])
            columns["offset"].append(member.offset)
            columns["size"].append(member.size)
            columns["crc32"].append(zlib.crc32(data))
        columns["members_each"].append(len(sample.members))
        columns["duration_s"].append(duration_s)
        columns["width"].append(width)
        columns["height"].append(height)
    return columns


def _build_in_processes(
    paths: Sequence[Shard], max_member_bytes: int, workers: int, done: Callable[[], None]
) -> None:
    """Build in processes of our own.

    Not `multiprocessing`: fork is unsafe once torch and Arrow have threads, and spawn runs the
    caller's script again unless it guards its main part.
    """
    processes: list[subprocess.Popen[str]] = []

    def serve(share: Sequence[Shard]) -> None:
        command = [sys.executable, "-m", "mmlight.data.shards.index"]
        pipe = subprocess.PIPE
        # A group of its own: Ctrl-C is for this process, which ends the others.
        with subprocess.Popen(
            command, stdin=pipe, stdout=pipe, encoding="utf-8", process_group=0
        ) as process:
            processes.append(process)
            assert process.stdin and process.stdout
            process.stdin.write(json.dumps([max_member_bytes, *map(_as_json, share)]))
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
    max_member_bytes, *shards = json.load(sys.stdin)
    for shard in shards:
        error = None
        path = Path(shard) if isinstance(shard, str) else remote.from_json(shard)
        try:
            build(path, max_member_bytes=max_member_bytes)
        except UserError as problem:
            error = str(problem)
        say(json.dumps(error))


def _as_json(shard: Shard) -> Any:
    return remote.as_json(shard) if isinstance(shard, Remote) else str(shard)


@contextmanager
def _progress(paths: Sequence[Shard], *, shown: bool) -> Iterator[Callable[[], None]]:
    """Show a bar on a terminal, one line elsewhere (a log file); yield what advances it."""
    from rich.progress import Progress

    is_live = shown and sys.stderr.isatty()
    text = f"Indexing {len(paths)} shard{'s' * (len(paths) != 1)} (once)"
    if shown and not is_live:
        say(f"{text}, the first is {paths[0]}", file=sys.stderr)
    console = Terminal(stderr=True)
    with Progress(console=console, disable=not is_live, transient=True) as bar:
        task = bar.add_task(text, total=len(paths))
        yield lambda: bar.advance(task)


if __name__ == "__main__":
    _work()
