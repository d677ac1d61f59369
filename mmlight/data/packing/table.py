"""A table: a row is a sample, a column a member, a file, a key or a label."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmlight.data.packing.source import (
    Exclude,
    Source,
    are_numbers,
    ending_of,
    open_files,
    order_classes,
)
from mmlight.data.packing.source_files import StoredFile
from mmlight.data.packing.table_file import read_rows
from mmlight.errors import UserError

# Tables write 3.0 where a column has gaps.
_NUMBER = re.compile(r"\s*([0-9]{1,10})(?:\.0*)?\s*")


def read_table(
    table: Path,
    *,
    files: Iterable[str] = (),
    members: Mapping[str, str] | None = None,
    key: str | None = None,
    label: str | None = None,
    class_names: Sequence[str] | None = None,
    folder: Path | None = None,
    exclude: Exclude | None = None,
    encoding: str | None = None,
    also_from: Sequence[Path] = (),
) -> Source:
    """Return the rows of a CSV, TSV, JSON-lines or parquet table as samples.

    Args:
        table: see `mmlight.data.packing.table_file.read_rows`.
        files: columns that hold paths of files. The file's own ending names the member, or what
            stands before: ``mask.png=mask``.
        members: extension to column, for columns that hold the content: ``{"txt": "caption"}``.
        key: column of unique sample keys; by default the number of the row.
        label: column of the class: numbers as they are, or names, which are numbered in natural
            order (`Source.class_names`); a row without one gets no ``cls``.
        class_names: the order of the names, where it is another.
        folder: where paths start from; the table's own by default.
        exclude: rows whose files are left out.
        encoding: see `mmlight.data.packing.table_file.read_rows`.
        also_from: folders that paths and links may lead into, beside `folder`.

    Raises:
        UserError: no such columns, or none at all.
    """
    members, exclude = dict(members or {}), exclude or Exclude()
    named = [_split(column) for column in files]
    folder = folder or table.parent
    source = open_files(folder, also_from)
    wanted = [column for _, column in named] + list(members.values())
    if not wanted:
        raise UserError(f"table {table}: name at least one column of files or members to pack")
    wanted += [column for column in (key, label) if column]
    result = Source(())
    number_of: dict[str, int] = {}
    if label:
        result.class_names, number_of = _names(table, label, class_names, encoding)

    def samples() -> Iterator[dict[str, Any]]:
        for number, (where, row) in enumerate(read_rows(table, columns=wanted, encoding=encoding)):
            paths = [(e, c, str(row[c])) for e, c in named if row[c] not in (None, "")]
            if any(exclude(path) for _, _, path in paths):
                result.left_out["rows by --exclude"] += 1
                continue
            if key and row[key] in (None, ""):
                raise UserError(f"{where}: column '{key}' is empty; each sample needs a key")
            sample: dict[str, Any] = {"__key__": str(row[key]) if key else f"{number:09d}"}
            for extension, column, path in paths:
                at = f"{where}, column '{column}'"
                extension = extension or ending_of(path)
                if not extension:
                    raise UserError(f"{at}: '{path}' has no ending; name its member: EXT=COLUMN")
                _add(sample, extension, StoredFile(source, folder / path, at), at)
            for extension, column in members.items():
                _add(sample, extension, row[column], where)
            if label and (text := _text(row[label])) is not None:
                _add(sample, "cls", number_of[text], where)
            if len(sample) == 1:
                result.left_out["rows without any content"] += 1
                continue
            yield sample
        exclude.check()

    result.samples = samples()
    return result


def _split(column: str) -> tuple[str, str]:
    extension, equals, name = column.partition("=")
    return (extension.lower().removeprefix("."), name) if equals else ("", column)


def _names(
    table: Path, label: str, given: Sequence[str] | None, encoding: str | None
) -> tuple[list[str], dict[str, int]]:
    """Return the names of the classes, if they have any, and the number of each label."""
    found: dict[str, None] = {}
    for _, row in read_rows(table, columns=[label], encoding=encoding):
        if (text := _text(row[label])) is not None:
            found[text] = None
    where = f"table {table}, column '{label}'"
    if not found:
        raise UserError(f"{where} holds no label")
    if are_numbers(found, given, where=where):
        return list(given or ()), {text: int(text) for text in found}
    names = order_classes(found, given, where=where)
    return names, {name: number for number, name in enumerate(names)}


def _text(value: Any) -> str | None:
    if isinstance(value, bool):
        value = str(value).lower()
    text = "" if value is None else str(value).strip()
    match = _NUMBER.fullmatch(text)
    return str(int(match[1])) if match else text or None


def _add(sample: dict[str, Any], extension: str, value: Any, where: str) -> None:
    if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
        value = value["bytes"]  # how the datasets library keeps images and sounds in parquet
    if sample.get(extension) is not None:
        raise UserError(f"{where}: a second member '.{extension}'")
    if value is not None:
        sample[extension] = value
