"""Finding runs by what people type: a path, ``NAME/ID``, an id, how one of these begins, patterns.

A run's folder is ``root/NAME/ID``.
"""

import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from mmlight.errors import UserError, nearest
from mmlight.runs.run.folder import Run

_SHOWN = 6
_WILD = frozenset("*?[")


def all_runs(root: str | Path, *, name: str | None = None) -> Iterator[Run]:
    """Yield all runs below a folder, in order of name and id.

    Args:
        root: the folder of all runs; a missing one has none.
        name: only the runs of this experiment.
    """
    for experiment in [Path(root) / name] if name else _folders(Path(root)):
        for path in _folders(experiment):
            if (run := Run(path)).is_run():
                yield run


def find(reference: str, *, root: str | Path = "runs") -> Run:
    """Return the run that somebody names.

    Args:
        reference: a run's folder or a file in it, ``NAME/ID``, ``ID``, or how ``NAME/ID`` or ``ID``
            begins where only one run begins so. A `NAME` alone means its only run.
        root: the folder of all runs.

    Raises:
        UserError: no run, or several.
    """
    path = Path(reference)
    for folder in (path, path.parent):
        if path.exists() and _was_begun(folder):
            return Run(folder)
    wanted = reference.strip("/")
    exact = Path(root) / wanted
    if wanted.count("/") == 1 and exact.is_dir():
        return Run(exact)
    runs = list(all_runs(root))
    same = [run for run in runs if run.id == wanted]
    begins = [run for run in runs if run.id.startswith(wanted) or run.label.startswith(wanted)]
    found = same or begins
    if len(found) == 1:
        return found[0]
    if not found:
        names = [run.id for run in runs] + [run.label for run in runs]
        raise UserError(
            f"no run '{reference}' in {root}{nearest(wanted, names)}; `mmlight runs` lists them"
        )
    newest = sorted(found, key=lambda run: run.path.stat().st_mtime_ns, reverse=True)
    shown = ", ".join(run.label for run in newest[:_SHOWN])
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    raise UserError(f"'{reference}' may be any of {len(found)} runs: {shown}{more}")


def find_all(references: Sequence[str], *, root: str | Path = "runs") -> list[Run]:
    """Return runs, each once, in the order in which they are named.

    Args:
        references: runs as `find` takes them; an experiment's name or the folder of its runs, for
            all of them; or patterns of ``NAME/ID``, such as ``'scenes/2026*'``.
        root: the folder of all runs.

    Raises:
        UserError: something that stands for no run.
    """
    runs = (run for reference in references for run in _all_of(reference, Path(root)))
    return [Run(path) for path in dict.fromkeys(run.path.resolve() for run in runs)]


def _all_of(reference: str, root: Path) -> list[Run]:
    if _WILD.intersection(reference):
        pattern = reference if "/" in reference else f"{reference}/*"
        if found := [run for run in all_runs(root) if fnmatch(run.label, pattern)]:
            return found
        raise UserError(f"no run in {root} is named like '{reference}'")
    for folder in (root / reference, Path(reference)):
        if (run := Run(folder)).is_run():  # and what lies in it are evaluations of it
            return [run]
        # A folder with runs in it is an experiment, or a sweep.
        if found := list(all_runs(folder.parent, name=folder.name)):
            return found
    return [find(reference, root=root)]


def _was_begun(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("config.yaml", "submission.json"))


def _folders(above: Path) -> list[Path]:
    try:
        with os.scandir(above) as entries:
            names = [e.name for e in entries if not e.name.startswith(".") and e.is_dir()]
    except OSError:
        return []
    return [above / name for name in sorted(names)]
