"""Small files: a reader sees the old or the new content, and passes over what is damaged."""

import csv
import io
import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from mmlight.errors import UserError, naming
from mmlight.terminal import note


def write_text(path: Path, text: str) -> None:
    """Write `text` to a temporary file beside `path`, flush it to the disk and rename it.

    Args:
        path: where the file will be; its folder is made where it is missing.
        text: the content, written as UTF-8.
    """
    # A git patch may hold bytes of other encodings, carried as surrogates.
    write_bytes(path, text.encode(errors="surrogateescape"))


def check_writable(path: Path, *, option: str) -> None:
    """Refuse a file that can't be written, before what goes into it is computed.

    Args:
        path: the file, which may be there, and its folder not yet.
        option: which names it.

    Raises:
        UserError: as above.
    """
    if path.is_dir():
        raise UserError(f"{option} {path}: is a folder; name a file")
    try:
        folder = next(folder for folder in path.absolute().parents if folder.exists())
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        said = error.strerror or error
        raise UserError(f"{option} {path}: {said}; name another place") from error


def write_bytes(path: Path, content: bytes) -> None:
    """Like `write_text`, for bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with naming(path), os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner may read; labs share their run folders. There is
        # no way to read the mask but to set it; only one thread writes.
        mask = os.umask(0o022)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """See that names in a folder, such as a renamed file's, are on the disk too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON that every parser reads (see `plain`)."""
    write_text(path, json.dumps(plain(value), indent=2, allow_nan=False) + "\n")


def csv_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    """Return rows as CSV under a line of headings; what a row lacks stays empty.

    Args:
        rows: cells by column.
        columns: the headings; without them, every column of the rows, in their order.
    """
    named = list(columns) or list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, named, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def json_objects(lines: Iterable[str]) -> list[dict[str, Any]]:
    """Return the objects in lines of JSON, without what a kill or a damage left of others."""
    found = []
    for line in lines:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a file; None where there is none. A damaged one is named, and None."""
    try:
        text = path.read_text(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    found = json_objects([text])
    if not found:
        warn_once(f"{path}: cannot be read, and is left out")
    return found[0] if found else None


@cache
def warn_once(text: str) -> None:
    """Say, once in this process, what was left out, as one line."""
    note(text)


def append_line(path: Path, text: str, *, sync: bool = False) -> None:
    """Append a line in one short write, so that those of several processes don't mix.

    A line that a killed process began is ended first: the new one must not be glued to it.

    Args:
        path: the file; its folder must be there.
        text: the line, without its end.
        sync: return only when it is on the disk.
    """
    with naming(path), path.open("ab+") as file:
        ending = ""
        if file.tell():
            file.seek(-1, os.SEEK_END)
            ending = "" if file.read(1) == b"\n" else "\n"
        file.write(f"{ending}{text}\n".encode())
        file.flush()
        if sync:
            os.fsync(file.fileno())


def plain(value: Any) -> Any:
    """Return `value` in JSON's own types.

    NaN and infinities become the strings ``nan``, ``inf``, ``-inf``, which ``float()`` reads back;
    JSON has no numbers for them. Objects with an ``item()`` (NumPy scalars) become numbers, and
    whatever else is unknown becomes its string.
    """
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if callable(getattr(value, "item", None)) and getattr(value, "size", 1) == 1:
        return plain(value.item())
    return str(value)
