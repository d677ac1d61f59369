"""A copy of the code, which a job runs whatever is edited while it waits."""

import shutil
import tempfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from mmlight.runs.files import write_json, write_text
from mmlight.runs.git import SNAPSHOT_GIT, SNAPSHOT_PATCH, Git, read_git, run_git, top_folder

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


def read_code(folder: Path, *, root: Path) -> Code | None:
    """Return the code of the work tree that holds a folder; None without git or a commit.

    Args:
        folder: a folder in the work tree.
        root: the folder of all runs, which is no code wherever it lies.
    """
    git, top = read_git(folder), top_folder(folder)
    if git is None or top is None:
        return None
    listed = run_git(top, "ls-files", "-z", "--cached", "--others", "--exclude-standard") or ""
    runs, large = root.resolve(), set(git.left_out)
    names = {name for name in listed.split("\0") if name and name not in large}
    files = [name for name in names if _is_code(top / name, runs=runs)]
    here = Path(git.prefix)
    is_package = (top / here / "__init__.py").exists()
    return Code(top, git, tuple(sorted(files)), str(here.parent if is_package else here))


def _is_code(path: Path, *, runs: Path) -> bool:
    # A submodule and a file that was removed are listed too.
    return (path.is_symlink() or path.is_file()) and not path.absolute().is_relative_to(runs)
