"""Finding a run by what people type: its path, ``NAME/ID``, its id, or how one of these begins."""

import shlex
from pathlib import Path

from mmlight.errors import UserError, nearest
from mmlight.runs.run.folder import RunFolder
from mmlight.runs.run.scan import run_folders

_SHOWN = 6


def find(reference: str, *, root: str | Path = "runs") -> RunFolder:
    """Return the run that is meant.

    Args:
        reference: a run's folder or a file in it, ``NAME/ID``, ``ID``, or how ``NAME/ID`` or ``ID``
            begins where only one run begins so. A `NAME` alone means its only run.
        root: the folder of all runs.

    Raises:
        UserError: no run, or several.
    """
    path = Path(reference)
    for folder in (path, path.parent):
        if path.exists() and _is_run(folder):
            return RunFolder(folder)
    wanted = reference.strip("/")
    exact = Path(root) / wanted
    if wanted.count("/") == 1 and exact.is_dir():
        return RunFolder(exact)
    runs = list(run_folders(root))
    same = [run for run in runs if run.name == wanted]
    begins = [run for run in runs if run.name.startswith(wanted) or _told(run).startswith(wanted)]
    found = same or begins
    if len(found) == 1:
        return RunFolder(found[0])
    if not found:
        names = [run.name for run in runs] + [_told(run) for run in runs]
        raise UserError(
            f"no run '{reference}' in {root}{nearest(wanted, names)}; `mmlight runs` lists them"
        )
    newest = sorted(found, key=lambda run: run.stat().st_mtime_ns, reverse=True)
    shown = ", ".join(_told(run) for run in newest[:_SHOWN])
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    raise UserError(f"'{reference}' may be any of {len(found)} runs: {shown}{more}")


def go_on_command(run: RunFolder) -> str:
    """Return the command that goes on with a run, as it is typed here.

    Args:
        run: the run, below the folder of all runs.
    """
    root = run.path.parents[1]
    words = ["mmlight", "resume", f"{run.name}/{run.id}"]
    return shlex.join(words if root == Path("runs") else [*words, "--root", str(root)])


def _told(run: Path) -> str:
    return f"{run.parent.name}/{run.name}"


def _is_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("config.yaml", "submission.json"))
