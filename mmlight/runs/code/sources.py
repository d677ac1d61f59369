"""The code that a run imports: mmlight's and the user's own, and copies of both for jobs.

The user's own is what Python imports from elsewhere than mmlight and what is installed: the folders
that ``PYTHONPATH`` names, and those that hold the packages of classes that the configuration names
(and modules that it imports) and that git knows, such as one in the working directory, or one
installed by ``pip install --editable``. A job runs a copy, whatever is edited while it waits.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from mmlight.files import write_json, write_text
from mmlight.own_modules import KEY, names_of
from mmlight.runs.code.git import (
    SNAPSHOT,
    SNAPSHOT_GIT,
    SNAPSHOT_PATCH,
    Git,
    copied_top,
    is_known,
    read_git,
    run_git,
    top_folder,
)

FOLDER = ".snapshots"


def code_folder() -> Path:
    """Return the folder whose git state counts.

    That is the copy that a job runs; else the package's own, where git tracks it; else the current
    folder, which is the user's project when mmlight is an installed package.
    """
    if copied := os.environ.get(SNAPSHOT):
        return Path(copied)
    package = Path(__file__).resolve().parents[2]
    tracked = run_git(package, "ls-files", "--error-unmatch", "__init__.py") is not None
    return package if tracked else Path.cwd()


def import_folder(folder: Path) -> Path:
    """Return where Python imports from: the folder above a package's, else the folder."""
    return folder.parent if (folder / "__init__.py").exists() else folder


@dataclass(frozen=True)
class OwnCode:
    """A folder that Python imports the user's own code from.

    Attributes:
        folder: the folder.
        git: the state of its work tree, `prefix` leading to the folder; None outside of git.
    """

    folder: Path
    git: Git | None

    def described(self) -> dict[str, Any]:
        """Return everything but the patch, in JSON's types."""
        return {"folder": str(self.folder), **(self.git.described() if self.git else {})}


def read_own_code(config: Mapping[str, Any] | None = None, *, ours: Path) -> list[OwnCode]:
    """Return the user's own code, in the order in which Python looks at the folders.

    A folder of a copy that a job runs stands for the one that was copied, which may come later in
    the same ``PYTHONPATH``.

    Args:
        config: the resolved configuration, whose classes may come from further folders.
        ours: the folder that mmlight is imported from.
    """
    found: dict[tuple[str, str], OwnCode] = {}
    for folder in _folders(config or {}):
        git = _read(folder)
        key = (git.top, git.prefix) if git else (str(folder), "")
        if folder != ours.resolve():
            found.setdefault(key, OwnCode(folder, git))
    if (git := _read(ours.resolve())) is not None:
        found.pop((git.top, git.prefix), None)
    return list(found.values())


def class_paths(value: Any) -> Iterator[str]:
    """Yield the classes of other packages than mmlight that a configuration names."""
    if isinstance(value, Mapping):
        path = value.get("class_path")
        if isinstance(path, str) and not path.startswith("mmlight."):
            yield path
        value = list(value.values())
    for child in value if isinstance(value, list) else ():
        yield from class_paths(child)


def named_modules(config: Mapping[str, Any]) -> list[str]:
    """Return the user's own modules and classes that a configuration has imported, sorted."""
    return sorted({*class_paths(config), *names_of(config.get(KEY), where=KEY)})


def _folders(config: Mapping[str, Any]) -> Iterator[Path]:
    for entry in filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        if Path(entry).is_dir():
            yield Path(entry).resolve()
    for package in sorted({name.partition(".")[0] for name in named_modules(config)}):
        spec = PathFinder.find_spec(package)
        places = list(spec.submodule_search_locations or ()) if spec else []
        place = places[0] if places else spec.origin if spec else None
        if place is not None and is_known((own := Path(place).resolve()).parent, own.name):
            yield own.parent


def _read(folder: Path) -> Git | None:
    """Return the state of a folder's work tree; None where git ignores all that is in it."""
    git = read_git(folder) if is_known(folder) else None
    copy = copied_top(folder)
    if git is None or copy is None:
        return git
    inner = folder.relative_to(copy)
    return replace(git, prefix=f"{inner}/" if inner.parts else "")


@dataclass(frozen=True)
class Code:
    """The code of a git work tree as it is now, committed or not.

    Attributes:
        top: the work tree.
        git: its commit, and the patch that leads from there to now, untracked files included.
        files: what belongs to it, relative to `top`.
        source: the folder that Python imports from, relative to `top`.
        root: the folder of all runs, in which the copy lies.
    """

    top: Path
    git: Git
    files: tuple[str, ...]
    source: str
    root: Path

    @property
    def key(self) -> str:
        """The commit, and a hash of the patch where there is one."""
        patch = self.git.patch.encode(errors="surrogateescape")
        return self.git.commit[:12] + (f"-{sha256(patch).hexdigest()[:8]}" if patch else "")

    @property
    def folder(self) -> Path:
        """Where Python will import its copy from."""
        return self.root / FOLDER / self.key / self.source

    def copy(self) -> Path:
        """Make the copy, unless there is one; return where Python will import it from."""
        target = self.root / FOLDER / self.key
        if target.exists():
            return self.folder
        target.parent.mkdir(parents=True, exist_ok=True)
        ignored = self.root / ".gitignore"
        if not ignored.exists():
            # Else the next copy would hold this one.
            write_text(ignored, "# Written by mmlight: runs are no code.\n*\n")
        part = Path(tempfile.mkdtemp(dir=target.parent, prefix=".part-"))
        try:
            part.chmod(0o755)  # labs share their run folders
            for name in self.files:
                copied = part / name
                copied.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(self.top / name, copied, follow_symlinks=False)
            write_json(part / SNAPSHOT_GIT, self.git.described())
            write_text(part / SNAPSHOT_PATCH, self.git.patch)
            try:
                part.rename(target)
            except OSError:  # another submission has made it meanwhile
                if not target.exists():
                    raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return self.folder


@dataclass(frozen=True)
class Sources:
    """All code that a job runs.

    Attributes:
        ours: mmlight's; None where it is installed as a package.
        own: the user's own, in the order in which Python looks at it.
            A folder in no git work tree is used where it lies.
    """

    ours: Code | None
    own: tuple[Code | Path, ...]

    @property
    def snapshot(self) -> Path | None:
        """Where Python will import mmlight's copy from."""
        return self.ours.folder if self.ours else None

    @property
    def own_folders(self) -> tuple[Path, ...]:
        """Where Python will import the user's own code from."""
        return tuple(o if isinstance(o, Path) else o.folder for o in self.own)

    @property
    def codes(self) -> list[Code]:
        """What is copied."""
        return [one for one in (self.ours, *self.own) if isinstance(one, Code)]

    def copy(self) -> None:
        """Make the copies that are not there yet."""
        for code in self.codes:
            code.copy()

    def notes(self) -> Iterator[str]:
        """Yield a line on each thing that a job runs otherwise than one may think."""
        if self.ours is None:
            yield "no git here: the job runs the mmlight that is installed, not a copy of the code"
        for code in self.codes:
            if code.git.left_out:
                yield f"too large to be code, so not copied: {', '.join(code.git.left_out)}"
        if places := [str(one) for one in self.own if isinstance(one, Path)]:
            yield f"in no git work tree, so neither copied nor recorded: {', '.join(places)}"

    def described(self) -> str:
        """Return the commits, in short."""
        found: dict[str, str] = {}
        for code in self.codes:
            name = "" if code is self.ours else f"{code.top.name} "
            changed = " and what is uncommitted" if code.git.patch else ""
            found.setdefault(code.key, f"{name}{code.git.commit[:12]}{changed}")
        return ", ".join(found.values())


def read_sources(config: Mapping[str, Any], *, root: Path) -> Sources:
    """Return all code that a job of an experiment runs."""
    ours = code_folder()
    own: list[Code | Path] = []
    for one in read_own_code(config, ours=import_folder(ours)):
        code = read_code(one.folder, root=root) if one.git else None
        own.append(replace(code, source=code.git.prefix or ".") if code else one.folder)
    return Sources(read_code(ours, root=root), tuple(own))


def read_code(folder: Path, *, root: Path) -> Code | None:
    """Return the code of the work tree that holds a folder; None without git or a commit.

    The folder is a package, or where Python imports from. What lies in that of all runs (`root`)
    is no code.
    """
    git, top = read_git(folder), top_folder(folder)
    if git is None or top is None:
        return None
    listed = run_git(top, "ls-files", "-z", "--cached", "--others", "--exclude-standard") or ""
    runs, large = root.resolve(), set(git.left_out)
    names = {name for name in listed.split("\0") if name and name not in large}
    files = [name for name in names if _is_code(top / name, runs=runs)]
    source = import_folder(top / git.prefix)
    return Code(top, git, tuple(sorted(files)), str(source.relative_to(top)), root.absolute())


def _is_code(path: Path, *, runs: Path) -> bool:
    # A submodule and a file that was removed are listed too.
    return (path.is_symlink() or path.is_file()) and not path.absolute().is_relative_to(runs)
