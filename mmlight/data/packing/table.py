"""A table: a row is a sample (a column a member, file, key or label), or an object in a picture."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmlight.data.packing.boxes import BoxSamples
from mmlight.data.packing.source import (
    Given,
    Source,
    StoredFile,
    ending_of,
    key_hash,
    number_classes,
)
from mmlight.data.packing.table_file import column_names, is_empty, read_rows
from mmlight.errors import UserError

_BLANK = "rows without any content"
# Tables write 3.0 where a column has gaps.
_NUMBER = re.compile(r"\s*([0-9]{1,10})(?:\.0*)?\s*")


def read_table(
    table: Path,
    given: Given,
    *,
    files: Iterable[str] = (),
    members: Mapping[str, str] | None = None,
    key: str | None = None,
    label: str | None = None,
) -> Source:
    """Return the rows of a CSV, TSV, JSON-lines or parquet table as samples.

    Args:
        table: see `mmlight.data.packing.table_file.read_rows`.
        given: what else is said.
        files: columns that hold paths of files. The file's own ending names the member, or what
            stands before: ``mask.png=mask``.
        members: extension to column, for columns that hold the content: ``{"txt": "caption"}``.
        key: column of unique sample keys; by default the number of the row.
        label: column of the class: numbers as they are, or names, which are numbered in natural
            order (`Source.class_names`); a row without one gets no ``cls``.

    Raises:
        UserError: no such columns, or none at all.
    """
    members = dict(members or {})
    named = [split_column(column) for column in files]
    source = given.open_files(given.images or table.parent)
    wanted = [column for _, column in named] + list(members.values())
    if not wanted:
        raise UserError(f"table {table}: name at least one column of files or members to pack")
    wanted += [column for column in (key, label) if column]
    result = Source(())
    number_of: dict[str, int] = {}
    if label:
        result.class_names, number_of = _names(table, label, given)

    lines: dict[bytes, str] = {}

    def samples() -> Iterator[dict[str, Any]]:
        for number, (where, row) in enumerate(
            read_rows(table, columns=wanted, encoding=given.encoding)
        ):
            paths = [(e, c, str(row[c])) for e, c in named if not is_empty(row[c])]
            if any(given.exclude(path) for _, _, path in paths):
                result.left_out["rows by --exclude"] += 1
                continue
            sample: dict[str, Any] = {"__key__": str(row[key]) if key else f"{number:09d}"}
            for extension, column, path in paths:
                at = f"{where}, column '{column}'"
                extension = extension or ending_of(path)
                if not extension:
                    raise UserError(f"{at}: '{path}' has no ending; name its member: EXT=COLUMN")
                _add(sample, extension, StoredFile(source, source.folder / path, at), at)
            for extension, column in members.items():
                _add(sample, extension, row[column], where)
            if label and (text := _text(row[label])) is not None:
                _add(sample, "cls", number_of[text], where)
            if len(sample) == 1:
                result.left_out[_BLANK] += 1
                continue
            if key and is_empty(row[key]):
                raise UserError(f"{where}: column '{key}' is empty; each sample needs a key")
            line = where.rpartition(", ")[2]
            if key and (other := lines.setdefault(key_hash(str(row[key])), line)) != line:
                raise UserError(
                    f"{where}: column '{key}' holds '{row[key]}' again, which {other} has; each "
                    "sample needs a key of its own"
                )
            yield sample
        given.exclude.check()

    result.samples = samples()
    return result


def split_column(column: str) -> tuple[str, str]:
    """Return the extension of a member, empty where none is named, and the column it is from."""
    extension, equals, name = column.partition("=")
    return (extension.lower().removeprefix("."), name) if equals else ("", column)


def _names(table: Path, label: str, given: Given) -> tuple[list[str], dict[str, int]]:
    """Return the names of the classes, if they have any, and the number of each label."""
    rows = read_rows(table, columns=[label], encoding=given.encoding)
    found = {text for _, row in rows if (text := _text(row[label])) is not None}
    where = f"table {table}, column '{label}'"
    if not found:
        raise UserError(f"{where} holds no label")
    return number_classes(found, given.class_names, where=where)


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
    # An empty field is how a table writes that there is nothing.
    if not is_empty(value):
        sample[extension] = value


# As TensorFlow's and Roboflow's, OpenImages', labelImg's and many a script's columns are named;
# `width` and `height` are the picture's where there are four corners.
_NAMES = {
    "file": ("filename", "file", "filepath", "imagepath", "path", "image", "imagename", "img"),
    "left": ("xmin", "x1", "left", "bboxx1", "bboxxmin", "bboxx", "x"),
    "top": ("ymin", "y1", "top", "bboxy1", "bboxymin", "bboxy", "y"),
    "right": ("xmax", "x2", "right", "bboxx2", "bboxxmax"),
    "bottom": ("ymax", "y2", "bottom", "bboxy2", "bboxymax"),
    "width": ("boxwidth", "bboxwidth", "bboxw", "w", "width"),
    "height": ("boxheight", "bboxheight", "bboxh", "h", "height"),
    "class": ("class", "label", "classname", "labelname", "name", "category", "object"),
}
# keras-retinanet's tables have no first line of names.
_WITHOUT_NAMES = ("file", "left", "top", "right", "bottom", "class")


def read_box_table(table: Path, given: Given) -> Source:
    """Return pictures with the objects in them: boxes as corners in pixels, class numbers.

    Rows of one picture need not follow one another. A row without a box says that its picture has
    no object.

    Args:
        table: with columns such as filename, xmin, ymin, xmax, ymax, class, or width and height of
            the box in place of xmax and ymax.
        given: what else is said.

    Raises:
        UserError: no such columns, or a row that is none.
    """
    files = given.open_files(given.images or table.parent)
    names = column_names(table, encoding=given.encoding)
    bare = len(names) == len(_WITHOUT_NAMES) and all(map(_is_coordinate, names[1:5]))
    column = dict(zip(_WITHOUT_NAMES, _WITHOUT_NAMES, strict=True)) if bare else _find(table, names)
    corners = [column["left"], column["top"]]
    is_corner = "right" in column and "bottom" in column
    corners += [column[n] for n in (("right", "bottom") if is_corner else ("width", "height"))]
    found = BoxSamples(files, given, where=f"table {table}")
    largest, count = 0.0, 0
    wanted = [column["file"], *corners, column["class"]]
    head = list(_WITHOUT_NAMES) if bare else None
    rows = read_rows(table, columns=wanted, encoding=given.encoding, names=head)
    for where, row in rows:
        if all(map(is_empty, row.values())):
            found.result.left_out[_BLANK] += 1
            continue
        path = str(row[column["file"]] or "").strip()
        if not path:
            raise UserError(f"{where}: column '{column['file']}' is empty; it names the picture")
        picture = found.add_picture(path)
        values = [row[name] for name in corners]
        if all(value in (None, "") for value in values):
            continue
        left, top, third, fourth = (
            _number(v, where, c) for v, c in zip(values, corners, strict=True)
        )
        box = (left, top, third, fourth) if is_corner else (left, top, left + third, top + fourth)
        name = row[column["class"]]
        if name in (None, ""):
            raise UserError(f"{where}: column '{column['class']}' is empty; each box has a class")
        found.add(picture, box, str(name).strip(), size=None, where=where)
        largest, count = max(largest, *box), count + 1
    if count and largest <= 1:
        raise UserError(
            f"table {table}: no coordinate is above 1: these are shares of the picture, but "
            "pixels are needed; multiply them by width and height"
        )
    return found.finish()


def _find(table: Path, names: Sequence[str]) -> dict[str, str]:
    plain = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in reversed(names)}
    found = {}
    for role, known in _NAMES.items():
        if match := next((plain[name] for name in known if name in plain), None):
            found[role] = match
    needed = [("file",), ("left",), ("top",), ("right", "width"), ("bottom", "height"), ("class",)]
    for roles in needed:
        if not any(role in found for role in roles):
            asked = " or ".join(_NAMES[role][0] for role in roles)
            raise UserError(
                f"--boxes: table {table} has no column '{asked}'; it has {', '.join(names)}"
            )
    return found


def _is_coordinate(text: str) -> bool:
    return re.fullmatch(r"\s*-?[0-9]+([.,][0-9]+)?\s*|", text) is not None


def _number(value: Any, where: str, column: str) -> float:
    try:
        # Excel's decimals, where semicolons separate.
        return float(value.replace(",", ".") if isinstance(value, str) else value)
    except (TypeError, ValueError):
        raise UserError(f"{where}: column '{column}' holds {value!r}, not a number") from None
