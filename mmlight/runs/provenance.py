"""What ran: the code's commit, what was uncommitted, packages, machine, command line."""

import os
import platform
import shlex
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from mmlight.runs.files import write_text

PACKAGES = (
    "mmlight torch torchvision torchaudio lightning torchmetrics transformers tokenizers timm "
    "webdataset wandb jsonargparse numpy pyarrow pillow soundfile soxr scikit-learn"
).split()


@dataclass(frozen=True)
class Git:
    """The state of a git work tree.

    Attributes:
        commit: full hash of HEAD.
        branch: the branch, or ``HEAD`` where none is checked out.
        dirty: tracked files differ from the commit.
        untracked: number of files that git neither tracks nor ignores.
        patch: `git diff` of the tracked files against the commit; empty when clean.
    """

    commit: str
    branch: str
    dirty: bool
    untracked: int
    patch: str

    def described(self) -> dict[str, Any]:
        """Return everything but the patch."""
        return {
            "commit": self.commit,
            "branch": self.branch,
            "dirty": self.dirty,
            "untracked": self.untracked,
        }


def read_git(folder: Path) -> Git | None:
    """Return the state of the work tree that holds `folder`; None without git or a commit.

    Args:
        folder: a folder in the work tree.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    patch = _git(folder, "diff", "--binary", "HEAD") or ""
    untracked = _git(folder, "ls-files", "--others", "--exclude-standard", "--full-name", ":/")
    branch = _git(folder, "rev-parse", "--abbrev-ref", "HEAD") or "HEAD"
    return Git(
        commit=commit.strip(),
        branch=branch.strip(),
        dirty=bool(patch),
        untracked=len((untracked or "").splitlines()),
        patch=patch,
    )


def code_folder() -> Path:
    """Return the folder whose git state counts.

    That is the package's own, where git tracks it; else the current folder, which is the user's
    project when mmlight is an installed package.
    """
    package = Path(__file__).resolve().parents[1]
    tracked = _git(package, "ls-files", "--error-unmatch", "__init__.py") is not None
    return package if tracked else Path.cwd()


def collect(*, devices: Sequence[str] = (), patch: Path | None = None) -> dict[str, Any]:
    """Describe what is running, in JSON's types. Never fails for want of git or a package.

    Args:
        devices: names of the accelerators, as the caller's framework gives them.
        patch: write what is uncommitted to this file (nothing is written when it is clean).
    """
    git = read_git(code_folder())
    if git is not None and git.dirty and patch is not None:
        write_text(patch, git.patch)
    return {
        "git": git.described() if git else None,
        "command": shlex.join(sys.argv),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "num_cpus": os.cpu_count(),
        "devices": list(devices),
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
        "packages": package_versions(),
    }


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that can change a result, those installed."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _git(folder: Path, *arguments: str) -> str | None:
    # No optional locks: several runs may look at one work tree at once.
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="surrogateescape")
