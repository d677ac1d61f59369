"""What is packed: samples, their classes, and what was left out."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mmlight.data.named_labels import CLASS_NAMES
from mmlight.data.packing.source_files import SourceFiles
from mmlight.data.shards import index
from mmlight.data.shards.paths import natural_key
from mmlight.errors import UserError, naming, nearest


@dataclass
class Source:
    """Samples to pack.

    Attributes:
        samples: as `mmlight.data.packing.write.pack` takes them.
        class_names: in the order of their numbers; empty where labels are numbers or there are
            none. Complete when the last sample was taken.
        left_out: what was left out, counted by its kind, likewise.
    """

    samples: Iterable[dict[str, Any]]
    class_names: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


class Exclude:
    """Files to leave out.

    Args:
        patterns: globs of a path below the source, of one of its folders, or of a file's name.
    """

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        self._patterns = list(patterns)
        self._unused = set(patterns)

    def __call__(self, path: str) -> bool:
        """Return whether a path, with ``/``, is left out."""
        parts = path.split("/")
        names = {path, *parts, *("/".join(parts[:n]) for n in range(1, len(parts)))}
        for pattern in self._patterns:
            if any(fnmatchcase(name, pattern.rstrip("/")) for name in names):
                self._unused.discard(pattern)
                return True
        return False

    def check(self) -> None:
        """Refuse a pattern that left out nothing.

        Raises:
            UserError: there is one.
        """
        for pattern in self._patterns:
            if pattern in self._unused:
                raise UserError(f"--exclude '{pattern}' matches no file")


def open_files(folder: Path, also_from: Sequence[Path]) -> SourceFiles:
    """Return what reads files of a folder, none larger than a shard's members may be."""
    return SourceFiles(folder, also_from=also_from, largest=index.DEFAULT_MAX_MEMBER_BYTES)


def key_of(path: str) -> str:
    """Return a sample's key for a file: its path without the ending, in which no dot is left."""
    folder, slash, name = path.lstrip("./").rpartition("/")
    return f"{folder}{slash}{os.path.splitext(name)[0].replace('.', '_')}"


def ending_of(path: str) -> str:
    """Return the ending of a file's name, which names its member."""
    return os.path.splitext(path)[1].lower().removeprefix(".")


def order_classes(found: Iterable[str], given: Sequence[str] | None, *, where: str) -> list[str]:
    """Return the names of classes in the order of their numbers.

    Args:
        found: the names that occur.
        given: the order of another pack, of which some may not occur; by default the natural one.
        where: begins messages.

    Raises:
        UserError: a name that is not among those given, or that no line of a file can hold.
    """
    names = sorted(set(found), key=natural_key)
    for name in names:
        if given is not None and name not in given:
            raise UserError(
                f"{where}: class '{name}' is not in --class-names{nearest(name, given)}"
            )
        if not name or re.search(r"[\r\n]", name):
            raise UserError(f"{where}: {name!r} can't be the name of a class: it is no line")
    if given is not None:
        if twice := [name for name, count in Counter(given).items() if count > 1]:
            raise UserError(f"--class-names: '{twice[0]}' comes twice; names must tell classes")
        return list(given)
    return names


def are_numbers(found: Iterable[str], given: Sequence[str] | None, *, where: str) -> bool:
    """Return whether labels are the numbers of their classes, rather than names.

    Args:
        found: the labels that occur.
        given: names, of which there must be one for each number.
        where: begins messages.

    Raises:
        UserError: a number that no name is for.
    """
    labels = set(found)
    if not all(re.fullmatch(r"[0-9]{1,10}", label) for label in labels):
        return False
    if given is None:
        return True
    if labels & set(given):
        return False
    if beyond := [label for label in labels if int(label) >= len(given)]:
        raise UserError(
            f"{where}: class {min(beyond)}, but --class-names holds {len(given)} names (the first "
            "is that of class 0)"
        )
    return True


def write_names(folder: Path, names: Iterable[str]) -> None:
    """Write ``classnames.txt`` beside shards."""
    path = folder / CLASS_NAMES
    part = path.with_name(f".{path.name}.part")
    try:
        with naming(path):
            part.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
