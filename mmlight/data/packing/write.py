"""Packs samples into shards: equal samples give equal bytes, and all shards appear or none.

To be shuffled, samples wait in a file, whatever their number: eight bytes of each stay in memory,
and files that samples name are read when their turn comes.
"""

import itertools
import json
import os
import pickle
import re
import shutil
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from mmlight.class_names import CLASS_NAMES
from mmlight.data.order.cursor import permutation
from mmlight.data.packing.source import StoredFile, key_hash
from mmlight.data.scan import bar, scan
from mmlight.data.shards import index, tar
from mmlight.data.shards.corpus import Corpus
from mmlight.data.shards.index_file import ShardIndex
from mmlight.data.shards.seal import SealedWriter
from mmlight.errors import UserError, naming
from mmlight.files import write_bytes
from mmlight.folders import alone, made

DEFAULT_SAMPLES_PER_SHARD = 1000
_OUR_NAMES = re.compile(r"\d{5,}\.tar(\.index)?")


def pack(
    samples: Iterable[Mapping[str, Any]],
    out_dir: Path,
    *,
    samples_per_shard: int = DEFAULT_SAMPLES_PER_SHARD,
    overwrite: bool = False,
    shuffle_seed: int | None = None,
    resume: bool = False,
    progress: bool = False,
    class_names: Callable[[], bytes | None] = lambda: None,
) -> list[ShardIndex]:
    """Write samples as ``00000.tar``, ``00001.tar`` ... with their indexes.

    Nothing appears in `out_dir` before the last sample is written and all shards are read back;
    after an error nothing is left behind, but for what `resume` goes on with. Files that samples
    name are read ahead, in threads.

    Args:
        samples: each maps ``__key__`` to its key and extensions to members: bytes as they are,
            text as UTF-8, numbers as text, files (`StoredFile`) as they are when their turn comes,
            anything else as JSON. None leaves a member out.
        out_dir: a folder, made if it is not there.
        samples_per_shard: all shards but the last hold this many.
        overwrite: replace shards of an earlier `pack`; without it they are an error.
        shuffle_seed: permute the samples; by default they stay in their order. Shards of one class
            each mix badly in training, so shuffle those.
        resume: keep whole shards when something goes wrong, in a hidden folder, and go on behind
            those of the last time, whose keys must be those of the same samples.
        progress: show a bar on a terminal.
        class_names: called after the last sample for what ``classnames.txt`` shall hold; None
            leaves it out.

    Returns:
        The index of each shard.

    Raises:
        UserError: no samples, a bad or repeated key, or shards in the way.
    """
    if samples_per_shard < 1:
        raise UserError(f"samples_per_shard {samples_per_shard} must be at least 1")
    with (
        made(out_dir),
        writing_alone(out_dir),
        _partial(out_dir, kept=resume) as partial,
        bar("Packing", None, shown=progress) as advance,
    ):
        old = _old_files(out_dir, overwrite=overwrite)
        if shuffle_seed is not None:
            samples = _shuffled(samples, seed=shuffle_seed, folder=partial)
        iterator = iter(samples)
        new: list[Path] = []
        for number in itertools.count():
            chunk = itertools.islice(iterator, samples_per_shard)
            if (first := next(chunk, None)) is None:
                break
            new.append(partial / f"{number:05d}.tar")
            whole = _counted(itertools.chain([first], chunk), advance)
            if new[-1].exists():
                _pass_over(new[-1], whole)
                continue
            part = new[-1].with_suffix(".part")
            with naming(out_dir / new[-1].name):
                write_shard(part, whole)
            os.replace(part, new[-1])
        if not new:
            raise UserError(f"no samples to pack into {out_dir}")
        # Read back, with the very checks that training makes.
        shards = index.load_or_build(new, progress=False)
        _check_keys(Corpus(shards))
        for shard in shards:
            if shard.index_path.parent != partial:  # MMLIGHT_INDEX_DIR names it by its old place
                shard.index_path.unlink()
        if (names := class_names()) is not None:
            write_bytes(partial / CLASS_NAMES, names)
        there = _old_files(out_dir, overwrite=overwrite)
        if new_ones := sorted(p for p in there if p.suffix == ".tar" and p not in old):
            raise UserError(f"{new_ones[0]} appeared while packing; name another folder")
        for path in there:
            path.unlink()
        if old:
            (out_dir / CLASS_NAMES).unlink(missing_ok=True)  # of the shards that are gone
        if names is not None:
            os.replace(partial / CLASS_NAMES, out_dir / CLASS_NAMES)
        for path in new:
            beside = path.with_name(f"{path.name}.index")
            for file in (beside, path):  # a shard after its index
                if file.exists():
                    os.replace(file, out_dir / file.name)
    return index.load_or_build([out_dir / path.name for path in new], progress=False)


def writing_alone(folder: Path) -> AbstractContextManager[None]:
    """Keep other processes from writing shards into a folder.

    Raises:
        UserError: one does so now.
    """
    return alone(folder / ".writing.lock", busy=f"{folder}: another process writes there")


@contextmanager
def _partial(out_dir: Path, *, kept: bool) -> Iterator[Path]:
    """Yield a folder for shards that are not all there yet; one that is kept outlives an error."""
    if not kept:
        for left in out_dir.glob(".packing-*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=".packing-", dir=out_dir) as folder:
            yield Path(folder)
        return
    partial = out_dir / ".packing"
    partial.mkdir(exist_ok=True)
    for path in partial.glob("*.part"):  # of a process that was killed
        path.unlink()
    try:
        yield partial
    except BaseException:
        for path in partial.glob("*.part"):
            path.unlink()
        with suppress(OSError):  # there are whole shards to go on behind
            partial.rmdir()
        raise
    shutil.rmtree(partial)


def _counted(
    samples: Iterable[Mapping[str, Any]], advance: Callable[[int], None]
) -> Iterator[Mapping[str, Any]]:
    for sample in samples:
        yield sample
        advance(1)


def _pass_over(shard: Path, samples: Iterable[Mapping[str, Any]]) -> None:
    """Take samples that a shard holds already.

    Raises:
        UserError: it holds others.
    """
    (known,) = index.load_or_build([shard], progress=False)
    keys = known.rows().keys
    now = [_shown(str(sample.get("__key__"))) for sample in samples]
    same = [keys[row] == key for row, key in enumerate(now[: known.num_samples])]
    if not all(same) or len(now) != known.num_samples:
        raise UserError(
            f"{shard}: holds other samples than now come; remove {shard.parent}, or give the "
            "source and settings of the last time"
        )


def leads_out(key: str) -> bool:
    """Return whether a key names a place outside of the folder that a tar is unpacked in."""
    return key.startswith(("/", "\\")) or ".." in key.replace("\\", "/").split("/")


def _old_files(out_dir: Path, *, overwrite: bool) -> list[Path]:
    shards = sorted(out_dir.glob("*.tar"))
    if shards and not overwrite:
        raise UserError(
            f"{out_dir} holds shards ({shards[0].name}); name another folder, or give --overwrite"
        )
    if foreign := [path for path in shards if not _OUR_NAMES.fullmatch(path.name)]:
        raise UserError(f"{foreign[0]} was not written by pack; move it or name another folder")
    return [path for path in out_dir.iterdir() if _OUR_NAMES.fullmatch(path.name)]


def write_shard(path: Path, samples: Iterable[Mapping[str, Any]]) -> None:
    """Write one shard, sealed; see `pack` for what samples are.

    Raises:
        UserError: a bad or repeated key.
    """
    keys: set[str] = set()
    with SealedWriter(path) as writer:
        for _, sample in scan(samples, _read, what="", chunk=1, shown=False):
            members = _encoded(sample)
            key = _shown(_checked_key(members.pop("__key__", None), members))
            if key in keys:
                raise UserError(f"sample '{key}' comes twice; keys must be unique")
            keys.add(key)
            for name in sorted(members):
                writer.add(f"{key}.{name}", members[name])


def _read(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Return a sample with the files that it names."""
    return {n: v.read() if type(v) is StoredFile else v for n, v in sample.items()}


def _encoded(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Return a sample with bytes as its members, but for the files that it names."""
    key = sample.get("__key__")
    return {
        name: value
        if name == "__key__" or type(value) is StoredFile
        else _encode(value, f"sample '{key}', member '{name}'")
        for name, value in sample.items()
        if value is not None
    }


def _shown(key: str) -> str:
    """Return a key as text; a file's name that is not UTF-8 no tar file of ours could hold."""
    return os.fsencode(key).decode("utf-8", "backslashreplace")


def _checked_key(key: Any, members: Mapping[str, Any]) -> str:
    if not isinstance(key, str):
        raise UserError(f"a sample's '__key__' is {key!r}; it must be text")
    if not members:
        raise UserError(f"sample '{key}' has no members")
    if leads_out(key):
        raise UserError(f"sample '{key}': its key leads out of the folder a tar is unpacked in")
    for extension in members:
        # Else it would come back under another key or not at all.
        if tar.split_name(f"{key}.{extension}") != (key, extension):
            raise UserError(
                f"sample '{key}', member '{extension}': keys have no dot in their last part and "
                "begin neither with '__' nor with a dot, extensions are lower case without '/'"
            )
    return key


def _check_keys(corpus: Corpus) -> None:
    is_repeated = repeated(corpus)
    if is_repeated.any():
        key = corpus.origin(int(is_repeated.argmax()))[1]
        raise UserError(f"sample '{key}' comes twice; keys must be unique")


def _encode(value: Any, where: str) -> bytes:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    try:
        return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace")
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {error}; give bytes, text, numbers, lists or dicts") from error


def _shuffled(
    samples: Iterable[Mapping[str, Any]], *, seed: int, folder: Path
) -> Iterator[dict[str, Any]]:
    """Yield samples in an order that the seed and their number decide; they wait in a folder."""
    places = array("q")
    # No other process can write into it: the file has no name.
    with tempfile.TemporaryFile(dir=folder) as file:
        for sample in samples:
            places.append(file.tell())
            pickle.dump(_encoded(sample), file)
        for number in permutation(len(places), seed=seed, epoch=0, use=0, place=(0, 0)):
            file.seek(places[number])
            yield pickle.load(file)


def repeated(corpus: Corpus) -> np.ndarray:
    """Return which samples have a key that another one has, too."""
    hashes = bytearray()
    for number in range(len(corpus)):
        hashes += key_hash(corpus.origin(number)[1])
    _, place, counts = np.unique(
        np.frombuffer(hashes, np.uint64), return_inverse=True, return_counts=True
    )
    found: np.ndarray = counts[place] > 1
    return found
