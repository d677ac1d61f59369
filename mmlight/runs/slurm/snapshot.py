"""A copy of the code, which a job runs whatever is edited while it waits."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mmlight.runs.files import write_json, write_text
from mmlight.runs.provenance import SNAPSHOT_GIT, SNAPSHOT_PATCH, Git

FOLDER = ".snapshots"
# An untracked file that is larger is data, not code.
_MAX_UNTRACKED_BYTES = 2 << 20


@dataclass(frozen=True)
class Code:
    """The code of a git work tree as it is now, committed or not.

    Attributes:
        top: the work tree.
        git: its commit, and the patch that leads from there to now, untracked files included.
        files: what belongs to it, relative to `top`.
        left_out: untracked files that are too large to be code.
    """

    top: Path
    git: Git
    files: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def key(self) -> str:
        """The commit, and a hash of the patch where there is one."""
        patch = self.git.patch.encode(errors="surrogateescape")
        return self.git.commit[:12] + (f"-{hashlib.sha256(patch).hexdigest()[:8]}" if patch else "")

    def folder(self, root: Path) -> Path:
        """Return where its copy lies.

        Args:
            root: the folder of all runs.
        """
        return root.absolute() / FOLDER / self.key

    def copy(self, root: Path) -> Path:
        """Make the copy, unless there is one; return its folder.

        Args:
            root: the folder of all runs.
        """
        target = self.folder(root)
        if target.exists():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
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
            except OSError:
                if not target.exists():
                    raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return target


def read_code(folder: Path, *, root: Path) -> Code | None:
    """Return the code of the work tree that holds a folder; None without git or a commit.

    Args:
        folder: a folder in the work tree.
        root: the folder of all runs, which is no code wherever it lies.
    """
    try:
        top = Path(os.fsdecode(_git(folder, "rev-parse", "--show-toplevel").strip()))
        commit = _git(top, "rev-parse", "HEAD").decode().strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    branch = _git(top, "rev-parse", "--abbrev-ref", "HEAD").decode().strip()
    tracked = _names(top, "--cached")
    runs = root.resolve()
    untracked = [
        name
        for name in _names(top, "--others", "--exclude-standard")
        if _is_file(top / name) and not (top / name).resolve().is_relative_to(runs)
    ]
    large = [n for n in untracked if (top / n).stat().st_size > _MAX_UNTRACKED_BYTES]
    code = [name for name in untracked if name not in large]
    patch = _patch(top, code)
    git = Git(
        commit=commit,
        branch=branch,
        dirty=bool(patch),
        untracked=len(code),
        patch=patch.decode(errors="surrogateescape"),
    )
    present = [n for n in tracked if (top / n).is_symlink() or (top / n).is_file()]
    return Code(top, git, tuple(sorted({*present, *code})), tuple(large))


def _patch(top: Path, untracked: list[str]) -> bytes:
    """Return the difference from the commit, new files included, and leave git's index alone."""
    index = top / os.fsdecode(_git(top, "rev-parse", "--git-path", "index").strip())
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder) / "index"
        if index.exists():
            shutil.copyfile(index, copied)
        if untracked:
            named = b"\0".join(os.fsencode(name) for name in untracked)
            options = ("--pathspec-from-file=-", "--pathspec-file-nul")
            _git(top, "add", "--intent-to-add", *options, index=copied, given=named)
        return _git(top, "diff", "--binary", "--no-ext-diff", "HEAD", index=copied)


def _names(top: Path, *options: str) -> list[str]:
    said = _git(top, "ls-files", "-z", *options)
    return [os.fsdecode(name) for name in said.split(b"\0") if name]


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _git(top: Path, *arguments: str, index: Path | None = None, given: bytes = b"") -> bytes:
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_LITERAL_PATHSPECS": "1"}
    if index is not None:
        environment["GIT_INDEX_FILE"] = str(index)
    done = subprocess.run(
        ["git", *arguments], cwd=top, env=environment, input=given, capture_output=True, check=True
    )
    return done.stdout
