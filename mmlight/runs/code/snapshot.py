"""A copy of the code, which a job runs whatever is edited while it waits."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from mmlight.files import write_json, write_text
from mmlight.runs.code.git import SNAPSHOT_GIT, SNAPSHOT_PATCH, Git, read_git, run_git, top_folder
from mmlight.runs.code.own_code import read_own_code
from mmlight.runs.code.provenance import code_folder, import_folder

FOLDER = ".snapshots"


@dataclass(frozen=True)
class Code:
    """The code of a git work tree as it is now, committed or not.

    Attributes:
        top: the work tree.
        git: its commit, and the patch that leads from there to now, untracked files included.
        files: what belongs to it, relative to `top`.
        source: the folder that Python imports from, relative to `top`.
    """

    top: Path
    git: Git
    files: tuple[str, ...]
    source: str

    @property
    def key(self) -> str:
        """The commit, and a hash of the patch where there is one."""
        patch = self.git.patch.encode(errors="surrogateescape")
        return self.git.commit[:12] + (f"-{sha256(patch).hexdigest()[:8]}" if patch else "")

    def folder(self, root: Path) -> Path:
        """Return where Python will import its copy from.

        Args:
            root: the folder of all runs.
        """
        return root.absolute() / FOLDER / self.key / self.source

    def copy(self, root: Path) -> Path:
        """Make the copy, unless there is one; return where Python will import it from.

        Args:
            root: the folder of all runs.
        """
        target = root.absolute() / FOLDER / self.key
        if target.exists():
            return self.folder(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        ignored = root / ".gitignore"
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
        return self.folder(root)


@dataclass(frozen=True)
class Sources:
    """All code that a job runs.

    Attributes:
        ours: mmlight's; None where it is installed as a package.
        own: the user's own, in the order in which Python looks at it.
            A folder in no git work tree is used where it lies.
        root: the folder of all runs.
    """

    ours: Code | None
    own: tuple[Code | Path, ...]
    root: Path

    @property
    def snapshot(self) -> Path | None:
        """Where Python will import mmlight's copy from."""
        return self.ours.folder(self.root) if self.ours else None

    @property
    def own_folders(self) -> tuple[Path, ...]:
        """Where Python will import the user's own code from."""
        return tuple(o if isinstance(o, Path) else o.folder(self.root) for o in self.own)

    @property
    def codes(self) -> list[Code]:
        """What is copied."""
        return [one for one in (self.ours, *self.own) if isinstance(one, Code)]

    def copy(self) -> None:
        """Make the copies that are not there yet."""
        for code in self.codes:
            code.copy(self.root)

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
    """Return all code that a job of an experiment runs.

    Args:
        config: the resolved configuration.
        root: the folder of all runs.
    """
    ours, root = code_folder(), root.absolute()
    own: list[Code | Path] = []
    for one in read_own_code(config, ours=import_folder(ours)):
        code = read_code(one.folder, root=root) if one.git else None
        own.append(replace(code, source=code.git.prefix or ".") if code else one.folder)
    return Sources(read_code(ours, root=root), tuple(own), root)


def read_code(folder: Path, *, root: Path) -> Code | None:
    """Return the code of the work tree that holds a folder; None without git or a commit.

    Args:
        folder: a folder in the work tree: a package, or where Python imports from.
        root: the folder of all runs, which is no code wherever it lies.
    """
    git, top = read_git(folder), top_folder(folder)
    if git is None or top is None:
        return None
    listed = run_git(top, "ls-files", "-z", "--cached", "--others", "--exclude-standard") or ""
    runs, large = root.resolve(), set(git.left_out)
    names = {name for name in listed.split("\0") if name and name not in large}
    files = [name for name in names if _is_code(top / name, runs=runs)]
    source = import_folder(top / git.prefix)
    return Code(top, git, tuple(sorted(files)), str(source.relative_to(top)))


def _is_code(path: Path, *, runs: Path) -> bool:
    # A submodule and a file that was removed are listed too.
    return (path.is_symlink() or path.is_file()) and not path.absolute().is_relative_to(runs)
