"""A text file for each class, a sample in each of its lines (as in MR)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmlight.data.packing.source import Exclude, Source, open_files, order_classes
from mmlight.data.packing.table_file import open_text, told_encoding
from mmlight.data.shards.paths import natural_key
from mmlight.errors import UserError
from mmlight.text_file import MARK


def read_lines(
    folder: Path,
    *,
    class_names: Sequence[str] | None = None,
    exclude: Exclude | None = None,
    encoding: str | None = None,
    also_from: Sequence[Path] = (),
) -> Source:
    """Return each line of a folder's text files as a sample: its text, and its file as the class.

    A class is named after its file, without the ending (``neg.txt``) or, where the files differ in
    it alone (``rt-polarity.neg``), after that.

    Args:
        folder: where the files are; those in folders below are passed over.
        class_names: the order of the classes; by default the natural one.
        exclude: files to leave out, such as a README.
        encoding: of the files; UTF-8 by default.
        also_from: folders that links may lead into.

    Raises:
        UserError: no such folder, fewer than two files, or one that is no text.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    exclude = exclude or Exclude()
    source = open_files(folder, also_from)
    paths = sorted(
        (p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")),
        key=lambda path: natural_key(path.name),
    )
    paths = [path for path in paths if not exclude(path.name)]
    exclude.check()
    if len(paths) < 2:
        raise UserError(f"{folder}: holds {len(paths)} files; a text file for each class is needed")
    for path in paths:
        source.check(path, f"folder {folder}")
    stems = {path.stem for path in paths}
    name_of = {p: p.suffix.removeprefix(".") if len(stems) == 1 else p.stem for p in paths}
    if len(set(name_of.values())) < len(paths):
        raise UserError(f"{folder}: two files have one name: {', '.join(p.name for p in paths)}")
    classes = order_classes(name_of.values(), class_names, where=f"folder {folder}")
    result = Source((), classes)

    def samples() -> Iterator[dict[str, Any]]:
        for path in paths:
            label = classes.index(name_of[path])
            try:
                with open_text(path, encoding) as file:
                    for number, line in enumerate(file, start=1):
                        text = line.strip("\r\n").removeprefix(MARK)
                        if not text.strip():
                            result.left_out["blank lines"] += 1
                            continue
                        key = f"{name_of[path].replace('.', '_')}/{number:07d}"
                        yield {"__key__": key, "txt": text, "cls": label}
            except UnicodeError as error:
                raise UserError(f"file {path}: {told_encoding(error)}") from error

    result.samples = samples()
    return result
