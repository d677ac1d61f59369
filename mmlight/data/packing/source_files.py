"""Files that are packed: regular ones, within the folders that the user named.

A table or a folder that comes from somebody else may name ``../../.ssh/id_rsa``, or hold a link to
it; packed, it would travel on with the data.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmlight.errors import UserError
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
        """Return the content of a file.

        Args:
            path: the file.
            where: what names it; messages begin with it.
            most: bytes; fewer than any file may have.

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
    """A member that is a file, read when it is written.

    Attributes:
        source: reads it.
        path: the file.
        where: what names it; messages begin with it.
    """

    source: SourceFiles
    path: Path
    where: str

    def read(self) -> bytes:
        """Return its content; see `SourceFiles.read`."""
        return self.source.read(self.path, self.where)
