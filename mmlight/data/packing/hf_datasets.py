"""Folders that the `datasets` library writes (``save_to_disk``), read without it.

A folder of Arrow streams, with ``state.json`` (their names) and ``dataset_info.json`` (what the
columns mean); several splits lie in folders of their own under ``dataset_dict.json``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmlight.data.packing.source import Given, Source, StoredFile, ending_of, order_classes
from mmlight.errors import UserError, nearest
from mmlight.text_file import MIB, parse_json, read_text_file

_STATE, _INFO, _SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"
_LARGEST = 64 * MIB
# Rows of pictures become Python's own objects so many at a time.
_ROWS = 64
# What files begin with, where neither path nor column says what they hold.
_MAGIC = {
    b"\xff\xd8\xff": "jpg",
    b"\x89PNG": "png",
    b"RIFF": "wav",
    b"fLaC": "flac",
    b"OggS": "ogg",
    b"ID3": "mp3",
    b"GIF8": "gif",
    b"BM": "bmp",
    b"II*\0": "tif",
    b"MM\0*": "tif",
}
_CAPTIONS = ("text", "caption", "sentence", "txt")


def is_saved_dataset(folder: Path) -> bool:
    """Return whether a folder is one that ``save_to_disk`` has written."""
    return (folder / _SPLITS).is_file() or all((folder / n).is_file() for n in (_STATE, _INFO))


def read_saved_dataset(
    folder: Path,
    given: Given,
    *,
    members: Mapping[str, str] | None = None,
    key: str | None = None,
    label: str | None = None,
    split: str | None = None,
) -> Source:
    """Return the rows of a saved dataset as samples.

    Without `members`, images and sounds become members named by their format; a column ``text``,
    ``caption`` or ``sentence``, or the only one of texts, becomes ``txt``; the first of class
    labels becomes ``cls``; everything else goes into ``json``.

    Args:
        folder: with Arrow files, or with a folder for each split.
        given: what else is said.
        members: extension to column.
        key: column of unique sample keys; by default the number of the row.
        label: column of classes.
        split: which one, where there are several.

    Raises:
        UserError: a folder that is none, or columns that it does not have.
    """
    folder = _of_split(folder, split)
    features = _features(folder)
    for column in [*(members or {}).values(), *(name for name in (key, label) if name)]:
        if column not in features:
            raise UserError(
                f"{folder} has no column '{column}'{nearest(column, features)}: "
                f"{', '.join(features)}"
            )
    columns = _Columns.explicit(members, label) if members else _Columns.by(features, key, label)
    source = given.open_files(given.images or folder)
    result = Source(())
    numbers: dict[int, int] | None = None
    if columns.label is not None and (names := features[columns.label].get("names")):
        where = f"{folder}, column '{columns.label}'"
        result.class_names = order_classes(names, given.class_names or names, where=where)
        numbers = {n: result.class_names.index(name) for n, name in enumerate(names)}

    def samples() -> Iterator[dict[str, Any]]:
        for number, row in enumerate(_rows(folder)):
            where = f"{folder}, row {number}"
            name = row.get(key) if key else f"{number:09d}"
            if name in (None, ""):
                raise UserError(f"{where}: column '{key}' is empty; each sample needs a key")
            sample: dict[str, Any] = {"__key__": str(name)}
            for extension, column in columns.members:
                found = _member(row[column], source, f"{where}, column '{column}'")
                if found is None:
                    continue
                extension = extension or found[0]
                if extension in sample:
                    raise UserError(
                        f"{where}: a second member '.{extension}'; name them: EXT=COLUMN"
                    )
                sample[extension] = found[1]
            if columns.label is not None and row[columns.label] is not None:
                sample["cls"] = value = row[columns.label]
                if numbers is not None:
                    if value != -1 and value not in numbers:
                        raise UserError(f"{where}: class {value!r}, of {len(numbers)}")
                    # -1 is how the library writes what has no class.
                    sample["cls"] = numbers.get(value)
            if columns.rest:
                sample["json"] = {column: row[column] for column in columns.rest}
            yield sample

    result.samples = samples()
    return result


@dataclass(frozen=True)
class _Columns:
    """Which column becomes what; an extension that is empty is that of the file's format."""

    members: tuple[tuple[str, str], ...]
    label: str | None
    rest: tuple[str, ...] = ()

    @classmethod
    def explicit(cls, members: Mapping[str, str], label: str | None) -> "_Columns":
        return cls(tuple(members.items()), label)

    @classmethod
    def by(
        cls, features: Mapping[str, Mapping[str, Any]], key: str | None, label: str | None
    ) -> "_Columns":
        kinds = {name: str(feature.get("_type")) for name, feature in features.items()}
        media = [name for name, kind in kinds.items() if kind in ("Image", "Audio")]
        label = label or next((n for n, kind in kinds.items() if kind == "ClassLabel"), None)
        texts = [
            n for n, f in features.items() if kinds[n] == "Value" and f.get("dtype") == "string"
        ]
        texts = [name for name in texts if name not in (key, label)]
        named = [name for name in _CAPTIONS if name in texts]
        caption = (named or (texts if len(texts) == 1 else []))[:1]
        used = {*media, *caption, label, key}
        return cls(
            (*(("", name) for name in media), *(("txt", name) for name in caption)),
            label,
            tuple(name for name in features if name not in used),
        )


def _of_split(folder: Path, split: str | None) -> Path:
    if not (folder / _SPLITS).is_file():
        if split is not None:
            raise UserError(f"--split {split}: {folder} holds one split; leave it out")
        return folder
    names = _object(folder / _SPLITS).get("splits")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{folder / _SPLITS}: names no splits")
    if split is None or split not in names:
        asked = f"--split {split}: " if split else ""
        near = nearest(split, names) if split else ""
        there = ", ".join(names)
        raise UserError(f"{asked}{folder} holds splits{near}; name one by --split: {there}")
    if Path(split).name != split:
        raise UserError(f"{folder / _SPLITS}: '{split}' is no name of a folder")
    return folder / split


def _object(path: Path) -> dict[str, Any]:
    try:
        value = parse_json(read_text_file(path, what=str(path), largest=_LARGEST))
    except ValueError as error:
        raise error if isinstance(error, UserError) else UserError(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: is not what the datasets library writes")
    return value


def _features(folder: Path) -> dict[str, Mapping[str, Any]]:
    features = _object(folder / _INFO).get("features")
    if not isinstance(features, dict) or not features:
        raise UserError(f"{folder / _INFO}: names no columns")
    return {
        # Lists of features are written as lists.
        name: feature if isinstance(feature, Mapping) else {"_type": "Sequence"}
        for name, feature in features.items()
    }


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa

    files = _object(folder / _STATE).get("_data_files")
    files = files if isinstance(files, list) else []
    listed = [file.get("filename") for file in files if isinstance(file, dict)]
    names = [name for name in listed if isinstance(name, str) and Path(name).name == name]
    if not names or len(names) < len(listed):
        raise UserError(f"{folder / _STATE}: names no data files")
    for name in names:
        path = folder / name
        try:
            with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
                for batch in reader:
                    for start in range(0, batch.num_rows, _ROWS):
                        yield from batch.slice(start, _ROWS).to_pylist()
        except (OSError, ValueError, KeyError, NotImplementedError) as error:
            if isinstance(error, UserError):
                raise
            said = " ".join(str(error).split())
            raise UserError(f"{path}: is no Arrow stream that can be read: {said[:300]}") from error


def _member(value: Any, source: Any, where: str) -> tuple[str, Any] | None:
    """Return the format and the content of a member; None where a row has none."""
    if not isinstance(value, Mapping) or not {"bytes", "path"} & value.keys():
        return None if value is None else ("", value)
    data, path = value.get("bytes"), value.get("path")
    if isinstance(data, bytes):
        found = next((e for magic, e in _MAGIC.items() if data.startswith(magic)), None)
        if found == "wav" and data[8:12] == b"WEBP":
            found = "webp"
        return found or ending_of(str(path or "")) or "bin", data
    if path is None:
        return None
    return ending_of(str(path)) or "bin", StoredFile(source, source.folder / str(path), where)
