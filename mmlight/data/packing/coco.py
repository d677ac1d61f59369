"""COCO: one JSON file with images, annotations and categories, read one element at a time."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from mmlight.data.packing.boxes import BoxSamples
from mmlight.data.packing.source import Given, Source
from mmlight.data.packing.table_file import open_text
from mmlight.errors import UserError
from mmlight.text_file import unique_keys


def read_coco(path: Path, given: Given) -> Source:
    """Return pictures with the objects in them: boxes as corners in pixels, class numbers.

    By default classes are numbered in the order of their ids. Crowds (`iscrowd`) are left out,
    segmentations and key points are not packed; both is said. The file is read in parts: memory
    grows with pictures and boxes, not with polygons.

    Raises:
        UserError: a file that is not such a one.
    """
    where = f"file {path}"
    files = given.open_files(given.images or path.parent)
    found = BoxSamples(files, given, where=where)
    try:
        names = _categories(path, where)
        sizes, pictures = _pictures(path, where, found)
        for number, entry in enumerate(_entries(path, "annotations")):
            at = f"{where}, annotation {entry.get('id', number)}"
            _add(found, entry, names=names, sizes=sizes, pictures=pictures, where=at)
    except OSError as error:
        raise UserError(f"{where} can't be read: {error.strerror or error}") from error
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    if not found.is_first_there():
        raise UserError(
            f"{where}: its pictures are not in {files.folder}; name their folder: --images FOLDER"
        )
    return found.finish(ordered=list(names.values()))


def _entries(path: Path, name: str) -> Any:
    for key, entry in stream_object(path):
        if key == name:
            if not isinstance(entry, dict):
                raise ValueError(f"'{name}' is not a list of objects")
            yield entry


def _categories(path: Path, where: str) -> dict[Any, str]:
    found = [
        (_id(e, where, "category"), str(e.get("name", ""))) for e in _entries(path, "categories")
    ]
    if not found:
        raise UserError(f"{where}: has no categories; is it a COCO file of objects?")
    names = dict(sorted(found, key=lambda pair: (isinstance(pair[0], str), pair[0])))
    if len(set(names.values())) < len(found):
        raise UserError(f"{where}: two categories have one id or one name; give each its own")
    return names


def _id(entry: dict[str, Any], where: str, what: str, key: str = "id") -> Any:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise UserError(f"{where}: {what} {str(entry)[:60]} has no {key}")
    return value


def _pictures(
    path: Path, where: str, found: BoxSamples
) -> tuple[dict[int, tuple[int, int]], dict[Any, int]]:
    sizes: dict[int, tuple[int, int]] = {}
    pictures: dict[Any, int] = {}
    for entry in _entries(path, "images"):
        name = entry.get("file_name")
        if not isinstance(name, str) or not name:
            raise UserError(f"{where}: image {str(entry)[:60]} has no file_name")
        identity = _id(entry, where, "image")
        if identity in pictures:
            raise UserError(f"{where}: two images have the id {identity}")
        pictures[identity] = picture = found.add_picture(name)
        width, height = entry.get("width"), entry.get("height")
        if isinstance(width, int) and isinstance(height, int):
            sizes[picture] = (width, height)
    if not pictures:
        raise UserError(f"{where}: has no images; is it a COCO file of objects?")
    return sizes, pictures


def _add(
    found: BoxSamples,
    entry: dict[str, Any],
    *,
    names: dict[Any, str],
    sizes: dict[int, tuple[int, int]],
    pictures: dict[Any, int],
    where: str,
) -> None:
    picture = pictures.get(_id(entry, where, "it", "image_id"))
    name = names.get(_id(entry, where, "it", "category_id"))
    if picture is None or name is None:
        lacking = "image_id" if picture is None else "category_id"
        raise UserError(f"{where}: {lacking} {entry[lacking]!r} is that of none in the file")
    for kind in ("segmentation", "keypoints"):
        found.result.left_out[f"{kind} of objects (boxes are packed)"] += bool(entry.get(kind))
    if entry.get("iscrowd"):
        found.result.left_out["crowds (iscrowd)"] += 1
        return
    box = entry.get("bbox")
    if (
        not isinstance(box, list)
        or len(box) != 4
        or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in box)
    ):
        raise UserError(f"{where}: its bbox is {str(box)[:60]}, not four numbers")
    left, top, width, height = map(float, box)
    corners = (left, top, left + width, top + height)
    found.add(picture, corners, name, size=sizes.get(picture), where=where)


_CHUNK = 1 << 20
_SPACE = " \t\r\n"
# Of one value: a list of polygons around one object has kilobytes.
_LARGEST = 256 << 20


def stream_object(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the entries of the object that a file holds; of a list each element by itself.

    Raises:
        ValueError: it holds no JSON object.
        OSError: it cannot be read.
    """
    with open_text(path, None) as file:
        text = _Text(file)
        text.take("{")
        if text.peek() == "}":
            return
        while True:
            name = text.value()
            if not isinstance(name, str):
                raise ValueError(f"{name!r} is no key of JSON")
            text.take(":")
            if text.peek() == "[":
                text.take("[")
                if text.peek() == "]":
                    text.take("]")
                else:
                    while True:
                        yield name, text.value()
                        if text.take(",]") == "]":
                            break
            else:
                yield name, text.value()
            if text.take(",}") == "}":
                return


class _Text:
    """The text from where it is read on."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._text = ""
        self._at = 0
        self._decoder = json.JSONDecoder(object_pairs_hook=unique_keys)

    def _more(self, size: int = _CHUNK) -> bool:
        new = self._file.read(size)
        self._text = self._text[self._at :] + new
        self._at = 0
        return bool(new)

    def peek(self) -> str:
        """Return the next character that is no white space."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                raise ValueError("JSON that ends too early")

    def take(self, wanted: str) -> str:
        """Take the next character, which must be one of these."""
        found = self.peek()
        if found not in wanted:
            raise ValueError(f"JSON with {found!r} where {' or '.join(wanted)} should be")
        self._at += 1
        return found

    def value(self) -> Any:
        """Take the next value."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                if len(self._text) - self._at > _LARGEST or not self._more(
                    max(_CHUNK, len(self._text) - self._at)
                ):
                    raise ValueError(f"JSON that can't be read: {error}") from error
                continue
            # A number may go on behind the end of what was read.
            if end == len(self._text) and self._more():
                continue
            self._at = end
            return value
