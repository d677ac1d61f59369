"""The state of the code in git: its commit, and what is uncommitted as a patch (no torch)."""

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

# New files are part of the patch, but data that lie in the work tree are not.
_LARGEST_NEW_FILE = 2**20
_LARGEST_NEW_FILES = 2**24
# Whatever the user's own settings are, `git apply` must read it.
_DIFF = (
    *("diff", "--binary", "--no-color", "--no-ext-diff", "--no-textconv", "--no-relative"),
    *("--src-prefix=a/", "--dst-prefix=b/"),
)

# What a run can import or build, and folders that it does not.
_CODE = frozenset((".py", ".pyx", ".c", ".cc", ".cpp", ".cu", ".h", ".so"))
_NO_CODE = frozenset(("tests", "docs"))

# A job runs a copy of the code, in the folder that this variable names; what git said of the code
# when it was copied lies in it.
SNAPSHOT = "MMLIGHT_SNAPSHOT"
SNAPSHOT_GIT = ".mmlight-snapshot.json"
SNAPSHOT_PATCH = ".mmlight-snapshot.patch"


@dataclass(frozen=True)
class Git:
    """The state of a git work tree.

    Attributes:
        commit: full hash of HEAD.
        branch: the branch, or ``HEAD`` where none is checked out.
        dirty: tracked files differ from the commit.
        untracked: number of files that git neither tracks nor ignores.
        patch: the difference from the commit, of tracked files first, then the untracked files;
            empty where there is none.
        patch_tracked: how many characters of it are about tracked files.
        left_out: untracked files that are too large for the patch.
        prefix: the folder that was looked at, relative to the top of the work tree.
        top: the work tree's folder.
        code_sha256: of the names and contents of the code at and below the folder that was looked
            at, committed or not: what runs can import, without tests and documents.
    """

    commit: str
    branch: str
    dirty: bool
    untracked: int
    patch: str
    patch_tracked: int = 0
    left_out: list[str] = field(default_factory=list)
    prefix: str = ""
    top: str = ""
    code_sha256: str | None = None

    def described(self) -> dict[str, Any]:
        """Return everything but the patch, of which there is a hash."""
        patch = self.patch.encode(errors="surrogateescape")
        about = {name: value for name, value in vars(self).items() if name != "patch"}
        return {**about, "patch_sha256": sha256(patch).hexdigest() if patch else None}


def read_git(folder: Path) -> Git | None:
    """Return the state of the work tree that holds `folder`, or a copy of it that a job runs.

    None without git or a commit.
    """
    if (copied := _read_copied(folder)) is not None:
        return copied
    commit = run_git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    listed = ("ls-files", "-z", "--others", "--exclude-standard", "--full-name", ":/")
    untracked = (run_git(folder, *listed) or "").split("\0")
    new, left_out = _small_enough(folder, [name for name in untracked if name])
    dirty = bool(run_git(folder, "diff", "--name-only", "HEAD"))
    changed = _patch(folder) if dirty else ""
    prefix = (run_git(folder, "rev-parse", "--show-prefix") or "").strip()
    return Git(
        commit=commit.strip(),
        branch=(run_git(folder, "rev-parse", "--abbrev-ref", "HEAD") or "HEAD").strip(),
        dirty=dirty,
        untracked=len(new) + len(left_out),
        left_out=left_out,
        prefix=prefix,
        top=str(top_folder(folder) or ""),
        patch=changed + (_patch(folder, new) if new else ""),
        patch_tracked=len(changed),
        code_sha256=_hash_of_code(folder, prefix, new=new),
    )


def _hash_of_code(folder: Path, prefix: str, *, new: Sequence[str]) -> str:
    """Return one hash of all code below a folder, the same whether it is committed or not."""
    top = top_folder(folder) or folder
    entries = (run_git(top, "ls-tree", "-r", "-z", "HEAD") or "").split("\0")
    found = {path: about for about, _, path in (entry.partition("\t") for entry in entries)}
    blobs = {path: about.split()[2] for path, about in found.items() if _is_code(path, prefix)}
    names = (run_git(top, "diff", "--name-only", "--no-renames", "-z", "HEAD") or "").split("\0")
    changed = [name for name in dict.fromkeys([*names, *new]) if _is_code(name, prefix)]
    there = [name for name in changed if (top / name).is_file() and "\n" not in name]
    hashed = run_git(top, "hash-object", "--stdin-paths", given="\n".join(there)) or ""
    blobs = {name: blob for name, blob in blobs.items() if name not in changed}
    blobs |= dict(zip(there, hashed.split(), strict=False))
    lines = "".join(f"{blobs[name]} {name.removeprefix(prefix)}\n" for name in sorted(blobs))
    return sha256(lines.encode(errors="surrogateescape")).hexdigest()


def _is_code(name: str, prefix: str) -> bool:
    path = PurePosixPath(name)
    below = name.startswith(prefix) and not _NO_CODE.intersection(path.parts)
    return below and path.suffix in _CODE


def _read_copied(folder: Path) -> Git | None:
    """Return what git said of the work tree that `folder` lies in a copy of."""
    above = copied_top(folder)
    if above is None:
        return None
    described = json.loads((above / SNAPSHOT_GIT).read_text())
    del described["patch_sha256"]
    patch = (above / SNAPSHOT_PATCH).read_bytes().decode(errors="surrogateescape")
    return Git(**described, patch=patch)


def copied_top(folder: Path) -> Path | None:
    """Return the top of the copy of a work tree that a folder lies in; None where it is none."""
    return next((a for a in (folder, *folder.parents) if (a / SNAPSHOT_GIT).exists()), None)


def is_known(folder: Path, *names: str) -> bool:
    """Return whether git knows a folder: it holds a file that is tracked or that none ignores.

    Args:
        folder: a folder; the copy of one that a job runs is known.
        names: files or folders in it to look for; it as a whole without them.
    """
    if copied_top(folder) is not None:
        return True
    listed = ("ls-files", "--cached", "--others", "--exclude-standard", "--", *(names or (".",)))
    return bool(run_git(folder, *listed))


def top_folder(folder: Path) -> Path | None:
    """Return the top of the work tree that holds `folder`; None where there is none."""
    top = run_git(folder, "rev-parse", "--show-toplevel")
    return Path(top.rstrip("\n")) if top else None


def _small_enough(folder: Path, names: list[str]) -> tuple[list[str], list[str]]:
    """Return those of the untracked files that the patch takes, and the others."""
    taken: list[str] = []
    others: list[str] = []
    top, room = top_folder(folder) or folder, _LARGEST_NEW_FILES
    for name in names:
        path = top / name
        # A work tree within this one is listed as its folder.
        size = path.lstat().st_size if path.is_file() or path.is_symlink() else room + 1
        fits = size <= min(room, _LARGEST_NEW_FILE)
        (taken if fits else others).append(name)
        room -= size if fits else 0
    return taken, others


def _patch(folder: Path, new: Sequence[str] = ()) -> str:
    """Return what tracked files have uncommitted, or these untracked files as new ones."""
    top = top_folder(folder) or folder
    if not new:
        return run_git(top, *_DIFF, "HEAD") or ""
    with tempfile.TemporaryDirectory() as scratch:
        # An index of its own: the user's is not touched.
        own = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
        # Only the names: nothing is written to git's objects.
        run_git(
            top,
            *("--literal-pathspecs", "add", "--intent-to-add"),
            *("--pathspec-from-file=-", "--pathspec-file-nul"),
            given="\0".join(new),
            **own,
        )
        return run_git(top, *_DIFF, **own) or ""


def run_git(folder: Path, *arguments: str, given: str = "", **own: str) -> str | None:
    """Return what git printed; None where it failed or is not installed.

    It reads what is `given`, and has variables of its `own` beside those of this process.
    """
    # No optional locks: several runs may look at one work tree at once.
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C", **own}
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env=environment,
            input=given.encode(errors="surrogateescape"),
            capture_output=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="surrogateescape")
