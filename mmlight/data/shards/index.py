"""One index per shard: where every member lies, so that any sample is one read away.

An index lies beside its shard (``00000.tar.index``) or, where that folder is read-only or
``MMLIGHT_INDEX_DIR`` is set, in that or in ``~/.cache/mmlight/index``. It is built when first
needed and again when the shard's size or time changes, or when the index is damaged.
"""

import hashlib
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
from mmlight.data.shards import index_file, seal, tar
from mmlight.data.shards.index_file import DamagedIndexError, OldIndexError, ShardIndex
from mmlight.errors import UserError
from mmlight.terminal import Terminal, say

_log = logging.getLogger(__name__)

DEFAULT_MAX_MEMBER_BYTES = 256 << 20
# Starting processes takes about a second, as much as indexing a few shards.
_MIN_SHARDS_FOR_PROCESSES = 8
# A network file system answers slowly.
_NUM_THREADS = 16


def digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_at(path: Path, descriptor: int, size: int, offset: int) -> bytes:
    """Read a part of an open shard.

    Raises:
        OSError: the disk failed or the shard is shorter.
    """
    data = os.pread(descriptor, size, offset)
    while len(data) < size:  # one call gives at most 2 GiB
        more = os.pread(descriptor, size - len(data), offset + len(data))
        if not more:
            raise OSError(f"shard {path} ended before byte {offset + size} while read")
        data += more
    return data


def load_or_build(
    paths: Iterable[Path],
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
    threads: ThreadPoolExecutor, paths: Sequence[Path], max_member_bytes: int
) -> list[tuple[ShardIndex | None, ShardIndex | None]]:
    """Return for each shard the index that is up to date, and one that was there in any case."""

    def find(path: Path) -> tuple[ShardIndex | None, ShardIndex | None]:
        status = _stat(path)
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
            is_same_file = (index.num_bytes, index.mtime_ns) == (status.st_size, status.st_mtime_ns)
            if is_same_file and index.largest_member <= max_member_bytes:
                return index, stale
        return None, stale

    # A task for each of 20,000 shards would take longer than what it does.
    share = -(-len(paths) // _NUM_THREADS) or 1
    parts = [paths[start : start + share] for start in range(0, len(paths), share)]
    found = threads.map(lambda part: [find(path) for path in part], parts)
    return [pair for part in found for pair in part]


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


def build(path: Path, *, max_member_bytes: int = DEFAULT_MAX_MEMBER_BYTES) -> ShardIndex:
    """Read a shard from end to end and store its index; see `load_or_build`."""
    before = _stat(path)
    try:
        sha256 = digest(path)  # first, for it reads in order and so fills the page cache
    except OSError as error:
        raise _unreadable(path, error) from error
    samples, num_ignored = tar.read_samples(path, max_member_bytes=max_member_bytes)
    extensions = Counter(extension for sample in samples for extension in sample.members)
    try:
        columns = _tabulate(path, samples, list(extensions))
    except OSError as error:
        raise _unreadable(path, error) from error
    after = _stat(path)
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise UserError(f"shard {path} changed while it was read; wait until it is written")
    members = [member for sample in samples for member in sample.members.values()]
    sealed = seal.read(path)
    if sealed is not None and sealed != seal.digest(
        (member.name, member.size, crc32)
        for member, crc32 in zip(members, columns["crc32"], strict=True)
    ):
        raise UserError(
            f"shard {path}: its members are not those that were packed (the checksum at its "
            f"beginning is another); {seal.REMEDY}"
        )
    summary: dict[str, Any] = {
        "num_bytes": before.st_size,
        "mtime_ns": before.st_mtime_ns,
        "sha256": sha256,
        "extensions": dict(extensions),
        "largest_member": max(member.size for member in members),
        "num_ignored": num_ignored,
    }
    keys = [sample.key for sample in samples]
    return index_file.store(path, keys=keys, columns=columns, summary=summary)


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"shard {path} can't be read: {error.strerror or error}")


def _tabulate(
    path: Path, samples: list[tar.TarSample], extensions: list[str]
) -> dict[str, list[Any]]:
    """Read every member and arrange what the index says of samples and members."""
    number = {extension: i for i, extension in enumerate(extensions)}
    of_samples = ("members_each", "duration_s", "width", "height")
    of_members = ("extension", "offset", "size", "crc32")
    columns: dict[str, list[Any]] = {name: [] for name in of_samples + of_members}
    with open(path, "rb", buffering=0) as file:
        for sample in samples:
            duration_s, width, height = math.nan, 0, 0
            seen: set[probe.Kind] = set()
            for extension, member in sample.members.items():
                data = read_at(path, file.fileno(), member.size, member.offset)
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
    paths: Sequence[Path], max_member_bytes: int, workers: int, done: Callable[[], None]
) -> None:
    """Build in processes of our own.

    Not `multiprocessing`: fork is unsafe once torch and Arrow have threads, and spawn runs the
    caller's script again unless it guards its main part.
    """
    processes: list[subprocess.Popen[str]] = []

    def serve(share: Sequence[Path]) -> None:
        command = [sys.executable, "-m", "mmlight.data.shards.index"]
        pipe = subprocess.PIPE
        # A group of its own: Ctrl-C is for this process, which ends the others.
        with subprocess.Popen(
            command, stdin=pipe, stdout=pipe, encoding="utf-8", process_group=0
        ) as process:
            processes.append(process)
            assert process.stdin and process.stdout
            process.stdin.write(json.dumps([max_member_bytes, *map(str, share)]))
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
    max_member_bytes, *paths = json.load(sys.stdin)
    for path in paths:
        error = None
        try:
            build(Path(path), max_member_bytes=max_member_bytes)
        except UserError as problem:
            error = str(problem)
        say(json.dumps(error))


@contextmanager
def _progress(paths: Sequence[Path], *, shown: bool) -> Iterator[Callable[[], None]]:
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
