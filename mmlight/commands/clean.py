"""``mmlight clean``: removes copies of the code that no run needs."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmlight.errors import UserError
from mmlight.runs.run.leftovers import find_leftovers
from mmlight.terminal import say


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
