"""``mmlight clean``: removes what lies below the folder of all runs and no run needs."""

import argparse
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmlight.errors import UserError
from mmlight.runs.code.sources import FOLDER
from mmlight.runs.run.find import all_runs
from mmlight.terminal import say

# A process that writes a file renames it within seconds.
_OLD_S = 24 * 3600.0


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight clean``.

    Raises:
        UserError: no folder of runs.
    """
    parser = argparse.ArgumentParser(
        prog="mmlight clean",
        description="List copies of the code (ROOT/.snapshots) that no run was submitted with, and "
        "what killed processes left half written; with --yes, remove them. Runs themselves, "
        "finished ones too, and the copies they were submitted with stay. Not while somebody "
        "submits.",
    )
    parser.add_argument("--root", default="runs", help="the folder of all runs (default: runs)")
    parser.add_argument("-y", "--yes", action="store_true", help="remove what is listed")
    options = parser.parse_args(argv)
    root = Path(options.root)
    if not root.is_dir():
        raise UserError(f"--root {root}: there is no such folder")
    found = find_leftovers(root)
    for leftover in found:
        say(f"{leftover.path}  {leftover.size / 2**20:.1f} MB  {leftover.what}")
        if options.yes:
            leftover.remove()
    if not found:
        say(f"nothing to remove in {root}")
        return 0
    total = sum(leftover.size for leftover in found) / 2**20
    say(f"{total:.1f} MB in {len(found)}: {'removed' if options.yes else '--yes removes them'}")
    return 0


@dataclass(frozen=True)
class Leftover:
    """Something to remove.

    Attributes:
        path: a folder, a file or a link.
        what: what it is.
        size: bytes on the disk.
    """

    path: Path
    what: str
    size: int

    def remove(self) -> None:
        """Remove it; what a link leads to stays."""
        if self.path.is_dir() and not self.path.is_symlink():
            shutil.rmtree(self.path)
        else:
            self.path.unlink(missing_ok=True)


def find_leftovers(root: Path) -> list[Leftover]:
    """Return what could be removed.

    A copy of the code is kept as long as a run, finished or not, says that it was submitted with
    it: `mmlight resume` goes on with that code.

    Raises:
        UserError: its folder of copies is a link to somewhere else.
    """
    copies = root / FOLDER
    if copies.is_symlink():
        raise UserError(f"{copies} is a link to {copies.resolve()}: nothing is removed there")
    found = []
    texts = list(_texts(root))
    for path in sorted(copies.iterdir()) if copies.is_dir() else []:
        if path.name.startswith(".part-"):
            found.append(Leftover(path, "half a copy of the code", _size(path)))
        elif path.is_dir() and not any(path.name in text for text in texts):
            found.append(Leftover(path, "a copy of the code that no run refers to", _size(path)))
    for run in all_runs(root):
        for path in sorted(run.path.glob(".*.part")):
            if path.is_file() and time.time() - path.lstat().st_mtime > _OLD_S:
                found.append(Leftover(path, "half a file", path.lstat().st_size))
    return found


def _texts(root: Path) -> Iterator[str]:
    """Yield what may name a copy: submissions and job scripts, as texts, damaged ones too."""
    for pattern in ("*/*/submission.json", "*/*/slurm/*.sh", "*/slurm/*.sh"):
        for path in root.glob(pattern):
            yield path.read_text(errors="replace")


def _size(path: Path) -> int:
    walked = os.walk(path)
    return sum(
        os.lstat(os.path.join(at, name)).st_size for at, _, names in walked for name in names
    )
