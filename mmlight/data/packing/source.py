"""What is packed: samples, their classes, what was left out, and the files that samples name.

Files are regular ones, within the folders that the user named: a table or a folder that comes from
somebody else may name ``../../.ssh/id_rsa``, or hold a link to it; packed, it would travel on with
the data.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mmlight.data.shards import index
from mmlight.data.shards.paths import natural_key
from mmlight.errors import UserError, nearest
from mmlight.text_file import read_regular


class SourceFiles:
    """Reads files below a folder, and below those that are allowed beside it.

    Args:
        folder: where the files are.
        also_from: further folders that links and paths may lead into.
        largest: bytes of a file.

    Raises:
        UserError: one of the further folders is none.
    """

    def __init__(self, folder: Path, *, also_from: Sequence[Path], largest: int) -> None:
        self.folder = folder
        self._largest = largest
        for further in also_from:
            if not further.is_dir():
                raise UserError(f"--also-from {further}: is not a folder")
        self._allowed = [os.path.realpath(path) for path in (folder, *also_from)]

    def read(self, path: Path, where: str, *, most: int | None = None) -> bytes:
        """Return the content of a file of `most` bytes; messages begin with `where`.

        Raises:
            UserError: it lies elsewhere, is no regular file, too large, or cannot be read.
        """
        try:
            self.check(path, where)
            most = self._largest if most is None else most
            data = read_regular(path, most=most + 1)
        except (OSError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            said = getattr(error, "strerror", None) or error
            raise UserError(f"{where}: {path} can't be read: {said}") from error
        if len(data) > most:
            raise UserError(f"{where}: {path} holds more than {most >> 20} MiB")
        return data

    def check(self, path: Path, where: str) -> None:
        """Refuse a path that leads out of the folders.

        Raises:
            UserError: it does.
        """
        real = os.path.realpath(path)
        if not any(os.path.commonpath((real, folder)) == folder for folder in self._allowed):
            to = "" if real == str(path) else f" leads to {real}, which"
            raise UserError(
                f"{where}: {path}{to} is not in {self.folder}; if it belongs to the data, allow it "
                f"by --also-from {os.path.dirname(real)}"
            )

    def walk(self) -> Iterator[Path]:
        """Yield all files but hidden ones, those behind links to folders too.

        Raises:
            UserError: a link that leads elsewhere, or in a circle.
        """
        # Where each folder really lies, after those that it lies in.
        trails: dict[str, tuple[str, ...]] = {str(self.folder): (os.path.realpath(self.folder),)}
        for root, folders, names in os.walk(self.folder, followlinks=True):
            above = trails.pop(root)
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in folders:
                path = os.path.join(root, name)
                real = os.path.join(above[-1], name)
                if os.path.islink(path):
                    self.check(Path(path), f"folder {self.folder}")
                    real = os.path.realpath(path)
                    if any(os.path.commonpath((real, up)) == real for up in above):
                        raise UserError(f"{path} is a link to {real}, which it lies in: a circle")
                trails[path] = (*above, real)
            for name in names:
                yield Path(root, name)


@dataclass(frozen=True)
class StoredFile:
    """A member that is a file, read when it is written; messages begin with `where`."""

    source: SourceFiles
    path: Path
    where: str

    def read(self) -> bytes:
        """Return its content; see `SourceFiles.read`."""
        return self.source.read(self.path, self.where)


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


@dataclass(frozen=True)
class Given:
    """What a user may say of any source, as far as it has an effect there.

    Attributes:
        class_names: the order of the classes; by default the source's own, else the natural one.
        exclude: files to leave out, and rows that name them.
        encoding: of text files; by default UTF-8, or what a byte-order mark says.
        also_from: folders that links and paths may lead into, beside the source's own.
        images: where paths that a file names start from; by default its own folder.
    """

    class_names: Sequence[str] | None = None
    exclude: Exclude = field(default_factory=Exclude)
    encoding: str | None = None
    also_from: Sequence[Path] = ()
    images: Path | None = None

    def open_files(self, folder: Path) -> SourceFiles:
        """Return what reads files of a folder, none larger than a shard's members may be.

        Raises:
            UserError: there is no such folder.
        """
        if not folder.is_dir():
            what = f"--images {folder}:" if folder == self.images else f"{folder}"
            raise UserError(f"{what} is not a folder")
        largest = index.DEFAULT_MAX_MEMBER_BYTES
        return SourceFiles(folder, also_from=self.also_from, largest=largest)


def key_hash(key: str) -> bytes:
    """Return eight bytes that stand for a key: among a million, two are alike once in 10^7 sets."""
    return hashlib.blake2b(key.encode("utf-8", "backslashreplace"), digest_size=8).digest()


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
    if given is None:
        return names
    if twice := [name for name, count in Counter(given).items() if count > 1]:
        raise UserError(f"--class-names: '{twice[0]}' comes twice; names must tell classes")
    return list(given)


def number_classes(
    found: Iterable[str],
    given: Sequence[str] | None,
    *,
    where: str,
    ordered: Sequence[str] | None = None,
) -> tuple[list[str], dict[str, int]]:
    """Return the names of classes, if they have any, and the number of each label.

    Args:
        found: the labels that occur: names, or the numbers of their classes.
        given: the names that the user gives.
        where: begins messages.
        ordered: the source's own order of names, where none are given; by default the natural one.

    Raises:
        UserError: see `order_classes`; or a number that no name is for.
    """
    labels = set(found)
    are_numbers = all(re.fullmatch(r"[0-9]{1,10}", label) for label in labels)
    if are_numbers and not labels & set(given or ()):
        beyond = [label for label in labels if given is not None and int(label) >= len(given)]
        if given is not None and beyond:
            raise UserError(
                f"{where}: class {min(beyond)}, but --class-names holds {len(given)} names (the "
                "first is that of class 0)"
            )
        return list(given or ()), {label: int(label) for label in labels}
    names = order_classes(labels, ordered if given is None else given, where=where)
    return names, {name: number for number, name in enumerate(names)}
