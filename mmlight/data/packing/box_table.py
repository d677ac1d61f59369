"""A table with a row for each object: the picture's file, the corners of the box, the class."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmlight.data.packing.boxes import BoxSamples
from mmlight.data.packing.source import Exclude, Source, open_files
from mmlight.data.packing.table_file import column_names, read_rows
from mmlight.errors import UserError

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


def read_box_table(
    table: Path,
    *,
    images: Path | None = None,
    class_names: Sequence[str] | None = None,
    exclude: Exclude | None = None,
    encoding: str | None = None,
    also_from: Sequence[Path] = (),
) -> Source:
    """Return pictures with the objects in them: boxes as corners in pixels, class numbers.

    Rows of one picture need not follow one another. A row without a box says that its picture has
    no object.

    Args:
        table: with columns such as filename, xmin, ymin, xmax, ymax, class, or width and height of
            the box in place of xmax and ymax.
        images: where paths start from; by default the table's own folder.
        class_names: the order of the classes; by default the natural one.
        exclude: pictures to leave out.
        encoding: of the table.
        also_from: folders that paths and links may lead into.

    Raises:
        UserError: no such columns, or a row that is none.
    """
    folder = images or table.parent
    if not folder.is_dir():
        raise UserError(f"--images {folder}: is not a folder")
    names = column_names(table, encoding=encoding)
    bare = len(names) == len(_WITHOUT_NAMES) and all(map(_is_coordinate, names[1:5]))
    column = dict(zip(_WITHOUT_NAMES, _WITHOUT_NAMES, strict=True)) if bare else _find(table, names)
    corners = [column["left"], column["top"]]
    is_corner = "right" in column and "bottom" in column
    corners += [column[n] for n in (("right", "bottom") if is_corner else ("width", "height"))]
    files = open_files(folder, also_from)
    found = BoxSamples(files, folder=folder, exclude=exclude, where=f"table {table}")
    largest, count = 0.0, 0
    wanted = [column["file"], *corners, column["class"]]
    given = list(_WITHOUT_NAMES) if bare else None
    for where, row in read_rows(table, columns=wanted, encoding=encoding, names=given):
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
    return found.finish(class_names)


def _find(table: Path, names: Sequence[str]) -> dict[str, str]:
    plain = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in reversed(names)}
    found = {}
    for role, known in _NAMES.items():
        match = next((plain[name] for name in known if name in plain), None)
        if match is not None:
            found[role] = match
    needed = [("file",), ("left",), ("top",), ("right", "width"), ("bottom", "height"), ("class",)]
    for roles in needed:
        if not any(role in found for role in roles):
            told = " or ".join(f"{_NAMES[role][0]}" for role in roles)
            raise UserError(
                f"--boxes: table {table} has no column '{told}'; it has {', '.join(names)}"
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
