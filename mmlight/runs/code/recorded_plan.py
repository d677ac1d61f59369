"""What running a recorded run again would run, for the user to look at before it is done.

A run's folder is code: its patch changes the program, its configuration names classes, and its
variables change how Python starts.
"""

import os
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from mmlight.errors import UserError
from mmlight.runs.code.own_code import named_modules
from mmlight.runs.code.provenance import ENVIRONMENT
from mmlight.runs.code.recorded import Recorded

_SHOWN = 8


def recorded_environment(recorded: Recorded) -> dict[str, str]:
    """Return the variables that the run was made under; sums depend on the number of threads.

    Raises:
        UserError: others than a run records, which would change more than its sums.
    """
    own: dict[str, str] = dict(recorded.provenance.get("environment") or {})
    if foreign := sorted(set(map(str, own)) - set(ENVIRONMENT)):
        raise UserError(
            f"run {recorded.run.path}: its provenance sets {', '.join(foreign)}, which no run "
            f"records (only {', '.join(ENVIRONMENT)}); remove it there"
        )
    own.pop("CUDA_VISIBLE_DEVICES", None)  # which of equal devices are free is another matter
    if recorded.provenance.get("num_threads"):
        own["OMP_NUM_THREADS"] = recorded.provenance["num_threads"]
    return {name: str(value) for name, value in own.items()}


def describe(recorded: Recorded, arguments: Sequence[str]) -> Iterator[str]:
    """Yield a line on each thing that would be run.

    Args:
        recorded: the run.
        arguments: of ``mmlight``, as it would be started again.
    """
    git, patch = recorded.git, recorded.patch
    if git is None:
        yield "code: the run recorded no commit, so it is the present code"
    else:
        if recorded.is_first:
            yield "code: that of the run's first start; other code has gone on with it since"
        yield from _code(git, patch, of="")
    for number, own in enumerate(recorded.own_code):
        if "commit" in own:
            yield from _code(own, recorded.own_patch(number), of=f" of {own.get('top')}")
        else:
            yield f"code: {own['folder']} as it is now: it was in no git work tree"
    foreign = named_modules(recorded.config)
    if foreign:
        yield f"settings: classes of other packages: {_some(foreign)}"
    values = recorded_environment(recorded)
    yield f"variables: {shlex.join(f'{k}={v}' for k, v in values.items()) or 'none'}"
    yield f"command: mmlight {shlex.join(arguments)}"
    yield f"in: {recorded.folder}"


def _code(git: Mapping[str, Any], patch: Path | None, *, of: str) -> Iterator[str]:
    yield f"code: commit {git['commit'][:12]}{of}{' with what was uncommitted' if patch else ''}"
    if patch is not None:
        yield f"patch: {patch}: {_changes(patch)}"
        if sha256(patch.read_bytes()).hexdigest() != git.get("patch_sha256"):
            yield "patch: it is not the one that was recorded"
    if git.get("left_out"):
        yield f"code: not recorded, as too large: {', '.join(map(str, git['left_out']))}"


def _changes(patch: Path) -> str:
    command = ["git", "apply", "--numstat", "-z", os.fspath(patch.resolve())]
    done = subprocess.run(command, cwd=patch.parent, capture_output=True, check=False)
    rows = [row.split("\t", 2) for row in done.stdout.decode(errors="replace").split("\0") if row]
    if done.returncode or not rows:
        return "git cannot read it"
    added, removed = (sum(int(row[n]) for row in rows if row[n].isdecimal()) for n in (0, 1))
    files = "1 file" if len(rows) == 1 else f"{len(rows)} files"
    return f"{files}, {added} lines added, {removed} removed: {_some([row[-1] for row in rows])}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
