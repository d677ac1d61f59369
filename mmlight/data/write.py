"""Packs samples into shards: equal samples give equal bytes, and all shards appear or none.

Sources of samples are an iterable, a folder of files, or a table (`table_samples`, `pack_table`).
"""

import itertools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmlight.data import index, tar
from mmlight.data.cursor import permutation
from mmlight.data.index_file import ShardIndex
from mmlight.data.named_labels import CLASS_NAMES
from mmlight.data.seal import SealedWriter
from mmlight.data.shards import natural_key
from mmlight.data.source_files import SourceFiles
from mmlight.errors import UserError, naming

DEFAULT_SAMPLES_PER_SHARD = 1000
_OUR_NAMES = re.compile(r"\d{5,}\.tar(\.index)?")


def pack(
    samples: Iterable[Mapping[str, Any]],
    out_dir: Path,
    *,
    samples_per_shard: int = DEFAULT_SAMPLES_PER_SHARD,
    overwrite: bool = False,
    workers: int | None = None,
) -> list[ShardIndex]:
    """Write samples as ``00000.tar``, ``00001.tar`` ... with their indexes.

    Nothing appears in `out_dir` before the last sample is written and all shards are read back;
    after an error nothing is left behind.

    Args:
        samples: each maps ``__key__`` to its key and extensions to members: bytes as they are,
            text as UTF-8, numbers as text, anything else as JSON. None leaves a member out.
        out_dir: a folder, made if it is not there.
        samples_per_shard: all shards but the last hold this many.
        overwrite: replace shards of an earlier `pack`; without it they are an error.
        workers: see `mmlight.data.index.load_or_build`.

    Returns:
        The index of each shard.

    Raises:
        UserError: no samples, a bad or repeated key, or shards in the way.
    """
    if samples_per_shard < 1:
        raise UserError(f"samples_per_shard {samples_per_shard} must be at least 1")
    out_dir.mkdir(parents=True, exist_ok=True)
    old = _old_files(out_dir, overwrite=overwrite)
    partial = Path(tempfile.mkdtemp(prefix=".packing-", dir=out_dir))
    try:
        iterator = iter(samples)
        new: list[Path] = []
        for number in itertools.count():
            chunk = itertools.islice(iterator, samples_per_shard)
            if (first := next(chunk, None)) is None:
                break
            new.append(partial / f"{number:05d}.tar")
            with naming(out_dir / new[-1].name):
                _write_shard(new[-1], itertools.chain([first], chunk))
        if not new:
            raise UserError(f"no samples to pack into {out_dir}")
        # Read back, with the very checks that training makes.
        for shard in index.load_or_build(new, workers=workers, progress=False):
            if shard.index_path.parent != partial:  # MMLIGHT_INDEX_DIR names it by its old place
                shard.index_path.unlink()
        for path in old:
            path.unlink()
        if old and (names := out_dir / CLASS_NAMES).is_file():  # of the shards that are gone
            names.replace(out_dir / f".{CLASS_NAMES}.superseded")
        for path in sorted(partial.iterdir(), reverse=True):  # a shard after its index
            os.replace(path, out_dir / path.name)
    finally:
        shutil.rmtree(partial)
    return index.load_or_build(
        [out_dir / path.name for path in new], workers=workers, progress=False
    )


def pack_folder(
    folder: Path,
    out_dir: Path,
    *,
    samples_per_shard: int = DEFAULT_SAMPLES_PER_SHARD,
    overwrite: bool = False,
    label_from_folder: bool = False,
    shuffle_seed: int | None = None,
    also_from: Sequence[Path] = (),
) -> list[ShardIndex]:
    """Pack the files below a folder; files that differ only behind the first dot are a sample.

    So ``cats/0001.jpg`` and ``cats/0001.txt`` become sample ``cats/0001`` with jpg and txt, as
    img2dataset writes them. Hidden files and files without a dot are left out.

    Args:
        folder: where the files are, at any depth.
        out_dir: see `pack`.
        samples_per_shard: see `pack`.
        overwrite: see `pack`.
        label_from_folder: add the number of the first-level folder in sorted order as ``cls`` and
            write their names to ``classnames.txt``, the layout of ImageNet.
        shuffle_seed: permute the samples; by default they stay in natural order of their names.
            Shards of one class each mix badly in training, so shuffle those.
        also_from: folders that links may lead into; beside `folder` itself there are none.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    source = _source(folder, also_from)
    files = _group_files(source)
    keys = sorted(files, key=natural_key)
    if not keys:
        raise UserError(f"{folder} holds no file with an extension")
    if shuffle_seed is not None:
        order = permutation(len(keys), seed=shuffle_seed, epoch=0, use=0, place=(0, 0))
        keys = [keys[i] for i in order]
    classes: list[str] = []
    if label_from_folder:
        if loose := [key for key in keys if "/" not in key]:
            raise UserError(f"'{loose[0]}' lies in no class folder of {folder}")
        classes = sorted({key.split("/")[0] for key in keys}, key=natural_key)

    def samples() -> Iterator[dict[str, Any]]:
        for key in keys:
            sample: dict[str, Any] = {"__key__": key}
            for extension, path in files[key].items():
                _add(sample, extension, source.read(path, f"folder {folder}"), str(folder))
            if classes:
                _add(sample, "cls", classes.index(key.split("/")[0]), f"sample '{key}'")
            yield sample

    shards = pack(samples(), out_dir, samples_per_shard=samples_per_shard, overwrite=overwrite)
    if classes:
        _write_names(out_dir / CLASS_NAMES, classes)
    return shards


def _write_names(path: Path, names: Iterable[str]) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        with naming(path):
            part.write_text("".join(f"{name}\n" for name in names))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def pack_table(
    table: Path,
    out_dir: Path,
    *,
    files: Iterable[str] = (),
    members: Mapping[str, str] | None = None,
    key: str | None = None,
    samples_per_shard: int = DEFAULT_SAMPLES_PER_SHARD,
    overwrite: bool = False,
    also_from: Sequence[Path] = (),
) -> list[ShardIndex]:
    """Pack a CSV, TSV, JSON-lines or parquet table: a row is a sample, a column a member.

    Args:
        table: the file; its first line names the columns (CSV, TSV).
        out_dir: see `pack`.
        files: columns that hold paths of files, relative to the table's folder. The file's own
            extension names the member.
        members: extension to column, for columns that hold the content: ``{"txt": "caption"}``.
        key: column of unique sample keys; by default the number of the row.
        samples_per_shard: see `pack`.
        overwrite: see `pack`.
        also_from: folders that paths and links may lead into, beside the table's own.
    """
    from mmlight.data.table import read_rows

    files, members = list(files), dict(members or {})
    source = _source(table.parent, also_from)
    wanted = [*files, *members.values(), *([key] if key else [])]
    if not files and not members:
        raise UserError(f"table {table}: name at least one column of files or members to pack")

    def samples() -> Iterator[dict[str, Any]]:
        for number, (where, row) in enumerate(read_rows(table, columns=wanted)):
            sample: dict[str, Any] = {"__key__": str(row[key]) if key else f"{number:09d}"}
            for column in files:
                if row[column] not in (None, ""):
                    path = table.parent / str(row[column])
                    # The row has the key: a dot before the last is one of the name.
                    extension = path.suffix.lower().removeprefix(".")
                    _add(sample, extension, source.read(path, f"{where}, column '{column}'"), where)
            for extension, column in members.items():
                _add(sample, extension, row[column], where)
            yield sample

    return pack(samples(), out_dir, samples_per_shard=samples_per_shard, overwrite=overwrite)


def _source(folder: Path, also_from: Sequence[Path]) -> SourceFiles:
    return SourceFiles(folder, also_from=also_from, largest=index.DEFAULT_MAX_MEMBER_BYTES)


def _add(sample: dict[str, Any], extension: str, value: Any, where: str) -> None:
    if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
        value = value["bytes"]  # how the datasets library keeps images and sounds in parquet
    if sample.get(extension) is not None:
        raise UserError(f"{where}: a second member '.{extension}'")
    sample[extension] = value


def _group_files(source: SourceFiles) -> dict[str, dict[str, Path]]:
    samples: dict[str, dict[str, Path]] = {}
    for path in source.walk():
        parts = tar.split_name(path.relative_to(source.folder).as_posix())
        if parts is None:
            continue
        key, extension = parts
        if extension == "tar":
            raise UserError(f"{path} is a shard already; give a folder of plain files")
        if other := samples.setdefault(key, {}).get(extension):
            raise UserError(f"{path} and {other} are the same member of sample '{key}'")
        samples[key][extension] = path
    return samples


def _old_files(out_dir: Path, *, overwrite: bool) -> list[Path]:
    shards = sorted(out_dir.glob("*.tar"))
    if shards and not overwrite:
        raise UserError(f"{out_dir} holds shards ({shards[0].name}); overwrite or name another")
    if foreign := [path for path in shards if not _OUR_NAMES.fullmatch(path.name)]:
        raise UserError(f"{foreign[0]} was not written by pack; move it or name another folder")
    return [path for path in out_dir.iterdir() if _OUR_NAMES.fullmatch(path.name)]


def _write_shard(path: Path, samples: Iterator[Mapping[str, Any]]) -> None:
    keys: set[str] = set()
    with SealedWriter(path) as writer:
        for sample in samples:
            members = {
                name: _encode(value, f"sample '{sample.get('__key__')}', member '{name}'")
                for name, value in sample.items()
                if name != "__key__" and value is not None
            }
            key = _checked_key(sample, members)
            if key in keys:
                raise UserError(f"sample '{key}' comes twice; keys must be unique")
            keys.add(key)
            for name in sorted(members):
                writer.add(f"{key}.{name}", members[name])


def _checked_key(sample: Mapping[str, Any], members: Mapping[str, bytes]) -> str:
    key = sample.get("__key__")
    if not isinstance(key, str):
        raise UserError(f"a sample's '__key__' is {key!r}; it must be text")
    if not members:
        raise UserError(f"sample '{key}' has no members")
    for extension in members:
        # Else it would come back under another key or not at all.
        if tar.split_name(f"{key}.{extension}") != (key, extension):
            raise UserError(
                f"sample '{key}', member '{extension}': keys have no dot in their last part and "
                "begin neither with '__' nor with a dot, extensions are lower case without '/'"
            )
    return key


def _encode(value: Any, where: str) -> bytes:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    try:
        return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace")
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {error}; give bytes, text, numbers, lists or dicts") from error
