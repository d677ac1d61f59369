"""Pascal VOC: a picture and an XML file of one name each (also as labelImg and Roboflow write)."""

import os
import xml.etree.ElementTree as ET
from pathlib import Path

from mmlight.data.decode import probe
from mmlight.data.packing.boxes import BoxSamples
from mmlight.data.packing.source import Given, Source, ending_of
from mmlight.data.shards.paths import natural_key
from mmlight.errors import UserError, nearest
from mmlight.text_file import MIB, read_text_file, split_lines

_LARGEST = 16 * MIB


def read_voc(folder: Path, given: Given, *, split: str | None = None) -> Source:
    """Return pictures with the objects in them: boxes as corners in pixels, class numbers.

    VOC counts pixels from 1 and the last one belongs to the box: xmin and ymin are lowered by 1,
    so that corners are edges. `difficult` objects are packed and marked in the sample's json.

    Args:
        folder: with JPEGImages and Annotations, or with both kinds of files in itself.
        given: what else is said.
        split: takes the pictures that ImageSets/Main/SPLIT.txt names; by default all that have an
            annotation.

    Raises:
        UserError: no such folders or files, or an annotation that is none.
    """
    pictures, annotations = _folders(folder)
    files = given.open_files(folder)
    by_stem: dict[str, str] = {}
    for name in sorted(os.listdir(pictures)):
        if probe.kind(ending_of(name)) == "image" and not name.startswith("."):
            stem = os.path.splitext(name)[0]
            if stem in by_stem:
                raise UserError(f"{pictures}: {by_stem[stem]} and {name} have one name; rename one")
            by_stem[stem] = name
    found = BoxSamples(files, given, where=f"folder {folder}")
    difficult: dict[int, list[int]] = {}
    for stem in _stems(folder, split, by_stem):
        path = annotations / f"{stem}.xml"
        if stem not in by_stem:
            raise UserError(f"{pictures}: has no picture '{stem}'")
        if split is None and not path.exists():
            found.result.left_out["pictures without an annotation"] += 1
            continue
        inside = (pictures / by_stem[stem]).relative_to(folder).as_posix()
        picture = found.add_picture(inside)
        data = files.read(path, f"folder {folder}", most=_LARGEST)
        difficult[picture] = _read_objects(found, picture, path, data)
    return found.finish(
        extras=lambda picture: {"difficult": marks} if any(marks := difficult[picture]) else {},
    )


def _folders(folder: Path) -> tuple[Path, Path]:
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    pictures, annotations = folder / "JPEGImages", folder / "Annotations"
    if pictures.is_dir() and annotations.is_dir():
        return pictures, annotations
    if any(name.lower().endswith(".xml") for name in os.listdir(folder)):
        return folder, folder
    below = [p.name for p in sorted(folder.iterdir()) if (p / "JPEGImages").is_dir()]
    hint = f"; give {folder / below[0]}" if below else ""
    raise UserError(
        f"--voc: {folder} has neither JPEGImages and Annotations nor .xml files beside the "
        f"pictures{hint}"
    )


def _stems(folder: Path, split: str | None, there: dict[str, str]) -> list[str]:
    if split is None:
        return sorted(there, key=natural_key)
    sets = folder / "ImageSets" / "Main"
    path = sets / f"{split}.txt"
    if not path.is_file():
        names = [p.stem for p in sorted(sets.glob("*.txt"))] if sets.is_dir() else []
        raise UserError(
            f"--split {split}: no file {path}{nearest(split, names)}; there is "
            f"{', '.join(names[:20]) or 'none'}"
        )
    lines = split_lines(read_text_file(path, what=str(path), largest=_LARGEST))
    # The lists of one class have a second column: 1, -1 or 0.
    return [line.split()[0] for line in lines if line.strip()]


class _Builder(ET.TreeBuilder):
    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        """Refuse what could define entities, whose expansion fills any memory."""
        raise UserError("has a DOCTYPE, which no annotation needs; remove that line")


def _read_objects(found: BoxSamples, picture: int, path: Path, data: bytes) -> list[int]:
    try:
        parser = ET.XMLParser(target=_Builder())
        parser.feed(data)
        root = parser.close()
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (ET.ParseError, ValueError, LookupError) as error:
        raise UserError(f"{path}: is no XML: {error}") from error
    size = root.find("size")
    sides = [_number(size, side) for side in ("width", "height")]
    known = (int(sides[0]), int(sides[1])) if sides[0] and sides[1] else None
    marks: list[int] = []
    for number, item in enumerate(root.iter("object"), start=1):
        where = f"{path}, object {number}"
        name = (item.findtext("name") or "").strip()
        box = item.find("bndbox")
        corners = [_number(box, side) for side in ("xmin", "ymin", "xmax", "ymax")]
        if not name or None in corners:
            lacks = "name" if not name else "bndbox with xmin, ymin, xmax and ymax"
            raise UserError(f"{where}: has no {lacks}")
        left, top, right, bottom = (float(value) for value in corners if value is not None)
        before = found.result.left_out.total()
        found.add(
            picture,
            (max(0.0, left - 1), max(0.0, top - 1), right, bottom),
            name,
            size=known,
            where=where,
        )
        if found.result.left_out.total() == before:
            marks.append(int(item.findtext("difficult") == "1"))
    return marks


def _number(element: ET.Element | None, name: str) -> float | None:
    text = element.findtext(name) if element is not None else None
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None
