"""COCO: one JSON file with images, annotations and categories."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmlight.data.packing.boxes import BoxSamples
from mmlight.data.packing.json_stream import stream_object
from mmlight.data.packing.source import Exclude, Source, open_files
from mmlight.errors import UserError


def read_coco(
    path: Path,
    *,
    images: Path | None = None,
    class_names: Sequence[str] | None = None,
    exclude: Exclude | None = None,
    also_from: Sequence[Path] = (),
) -> Source:
    """Return pictures with the objects in them: boxes as corners in pixels, class numbers.

    Classes are numbered in the order of their ids, without gaps. Crowds (`iscrowd`) are left out,
    segmentations and key points are not packed; both is told. The file is read in parts: memory
    grows with pictures and boxes, not with polygons.

    Args:
        path: the JSON file.
        images: the folder of the pictures; by default the file's own.
        class_names: the order of the classes; by default that of their ids.
        exclude: pictures to leave out.
        also_from: folders that links may lead into.

    Raises:
        UserError: a file that is not such a one.
    """
    where = f"file {path}"
    folder = images or path.parent
    if not folder.is_dir():
        raise UserError(f"--images {folder}: is not a folder")
    files = open_files(folder, also_from)
    found = BoxSamples(files, folder=folder, exclude=exclude, where=where)
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
            f"{where}: its pictures are not in {folder}; name their folder: --images FOLDER"
        )
    return found.finish(class_names, ordered=list(names.values()))


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
