"""A run as it was recorded, what running it again would run, and what differs now (no torch).

A run's folder is code: its patch changes the program, its configuration names classes, and its
variables change how Python starts. So all of that is shown before it is done.
"""

import os
import platform
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from mmlight import compose
from mmlight.errors import UserError
from mmlight.files import read_json
from mmlight.runs.code.provenance import ENVIRONMENT, package_versions
from mmlight.runs.code.sources import named_modules
from mmlight.runs.run.folder import Run

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SHOWN = 8
# What `provenance.json` says of the place, and that changes results.
_PLACE = ("platform", "devices", "num_devices", "precision", "num_threads")


@dataclass(frozen=True)
class Difference:
    """Something that is not as it was.

    Attributes:
        what: such as ``torch`` or ``data: train``.
        before: as it was recorded.
        now: as it is.
    """

    what: str
    before: str
    now: str


@dataclass(frozen=True)
class Recorded:
    """What a run folder says of how the run was made.

    Attributes:
        run: the folder.
        config: the resolved configuration.
        provenance: the code, the packages, the place, the data.
        ckpt_path: the checkpoint that training started from, if any.
        is_first: whether other code has gone on with the run since; this is of its first start.
    """

    run: Run
    config: Mapping[str, Any]
    provenance: Mapping[str, Any]
    ckpt_path: str | None
    is_first: bool

    @property
    def git(self) -> Mapping[str, Any] | None:
        """The state of the code; None where no commit was recorded."""
        git: Mapping[str, Any] | None = self.provenance.get("git")
        return git

    @property
    def own_code(self) -> list[Mapping[str, Any]]:
        """The folders of the user's own code, with the state of each that lay in git."""
        return list(self.provenance.get("own_code") or ())

    def own_patch(self, number: int) -> Path | None:
        """Return what one of them had uncommitted; None where nothing was."""
        patch = self.run.own_patch(number, first=self.is_first)
        return patch if patch.exists() else None

    @property
    def patch(self) -> Path | None:
        """What was uncommitted; None where nothing was."""
        patch = self.run.first_patch if self.is_first else self.run.patch
        return patch if patch.exists() else None

    @property
    def folder(self) -> Path:
        """Where it ran, which relative paths refer to; the current folder where that is gone."""
        folder = Path(self.provenance.get("folder") or ".")
        return folder if folder.is_dir() else Path.cwd()


def read_recorded(path: Path) -> Recorded:
    """Read a training's run folder.

    Raises:
        UserError: it is no run folder, or that of an evaluation.
    """
    run = Run(path)
    for file in (run.config_yaml, run.provenance_json):
        if not file.is_file():
            raise UserError(
                f"run {path}: has no {file.name}; give a run's folder, such as runs/NAME/ID"
            )
    is_first = run.first_provenance.exists()
    record = run.first_provenance if is_first else run.provenance_json
    provenance = read_json(record)
    if provenance is None:
        raise UserError(f"run {path}: its {record.name} is damaged; it cannot be run again")
    if provenance.get("verb", "fit") != "fit":
        raise UserError(
            f"run {path}: is an evaluation ({provenance['verb']}); only trainings are run again"
        )
    if provenance.get("git") is not None:
        _check_git(run, provenance["git"])
    for own in provenance.get("own_code") or ():
        if not isinstance(own, dict) or not isinstance(own.get("folder"), str):
            raise UserError(f"run {run.path}: its provenance names no folder of own code: {own!r}")
        if "commit" in own:
            _check_git(run, own)
    config = compose.read(run.config_yaml)
    return Recorded(run, config, provenance, provenance.get("ckpt_path"), is_first)


def _check_git(run: Run, git: Any) -> None:
    """Refuse what git would take for an option, and a folder outside of the work tree."""
    git = git if isinstance(git, dict) else {"commit": ""}
    commit, prefix = git.get("commit"), git.get("prefix", "")
    if not _COMMIT.fullmatch(str(commit)):
        raise UserError(f"run {run.path}: its provenance names no commit, but {commit!r}")
    if Path(prefix).is_absolute() or ".." in Path(prefix).parts:
        raise UserError(
            f"run {run.path}: its provenance names a folder {prefix!r} outside the code"
        )


def differences_before(recorded: Recorded) -> list[Difference]:
    """Return what differs as far as that is known before the run starts: packages, Python."""
    now = {"python": platform.python_version(), **package_versions()}
    before = {"python": recorded.provenance.get("python"), **recorded.provenance["packages"]}
    return _differences(before, now)


def differences_after(recorded: Recorded, again: Run) -> list[Difference]:
    """Return what else differs, once the other run has written its own record: place and data."""
    now = read_json(again.provenance_json) or {}
    return _differences(_place_and_data(recorded.provenance), _place_and_data(now))


def _place_and_data(provenance: Mapping[str, Any]) -> dict[str, Any]:
    splits = (provenance.get("data") or {}).get("fingerprint") or {}
    data = {f"data: {name}": str(value)[:12] for name, value in splits.items()}
    return {**{key: provenance.get(key) for key in _PLACE}, **data}


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    found = []
    for what in dict.fromkeys([*before, *now]):
        old, new = before.get(what), now.get(what)
        # What an older record does not say is not known to differ.
        if old is not None and old != new:
            found.append(Difference(what, _text(old), _text(new)))
    return found


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


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
    """Yield a line on each thing that would be run."""
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
