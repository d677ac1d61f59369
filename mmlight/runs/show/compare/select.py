"""Which runs are meant by what people type after ``mmlight compare``."""

from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from mmlight.errors import UserError
from mmlight.runs.run.find import find
from mmlight.runs.run.scan import ScannedRun, run_folders

_WILD = frozenset("*?[")


def select(references: Sequence[str], *, root: str | Path = "runs") -> list[Path]:
    """Return the folders of runs, each once, in the order in which they are named.

    Args:
        references: runs as `mmlight.runs.run.find.find` takes them; an experiment's name or the
            folder of its runs, for all of them; or patterns of ``NAME/ID``, such as
            ``'scenes/2026*'``.
        root: the folder of all runs.

    Raises:
        UserError: something that stands for no run.
    """
    found: dict[Path, None] = {}
    for reference in references:
        for path in _of(reference, Path(root)):
            found[path.resolve()] = None
    return list(found)


def _of(reference: str, root: Path) -> list[Path]:
    if _WILD.intersection(reference):
        pattern = reference if "/" in reference else f"{reference}/*"
        runs = [p for p in run_folders(root) if fnmatch(f"{p.parent.name}/{p.name}", pattern)]
        if not runs:
            raise UserError(f"no run in {root} is named like '{reference}'")
        return runs
    for folder in (root / reference, Path(reference)):
        if ScannedRun(folder).is_run():  # and what lies in it are evaluations of it
            return [folder]
        # A folder with runs in it is an experiment, or a sweep.
        if runs := list(run_folders(folder.parent, name=folder.name)):
            return runs
    return [find(reference, root=root).path]
