"""The code of a run, checked out beside the present one for as long as it is needed (no torch)."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmlight.errors import UserError


@contextmanager
def checked_out(repository: Path, *, commit: str, patch: Path | None) -> Iterator[Path]:
    """Give a temporary work tree of a commit with a patch applied, and remove it afterwards.

    Args:
        repository: a folder in a work tree of the repository.
        commit: what to check out.
        patch: what was uncommitted; None for nothing.

    Raises:
        UserError: the repository lacks the commit, or the patch does not apply.
    """
    if not has_commit(repository, commit):
        raise UserError(
            f"commit {commit[:12]} of the run is not in {repository}; fetch it there, or run this "
            "in a clone that has it (--repository)"
        )
    with tempfile.TemporaryDirectory(prefix="mmlight-reproduce-") as scratch:
        tree = Path(scratch) / "code"
        try:
            _git(repository, "worktree", "add", "--quiet", "--detach", str(tree), commit)
            if patch is not None:
                try:
                    _git(tree, "apply", "--binary", "--whitespace=nowarn", str(patch.resolve()))
                except subprocess.CalledProcessError as error:
                    raise UserError(
                        f"{patch} does not apply to commit {commit[:12]}: {_said(error)}"
                    ) from None
            yield tree
        finally:
            subprocess.run(
                ["git", "worktree", "remove", "--force", str(tree)],
                cwd=repository,
                capture_output=True,
                check=False,
            )


def has_commit(repository: Path, commit: str) -> bool:
    """Return whether a repository has a commit.

    Args:
        repository: a folder in a work tree of the repository; a missing one has none.
        commit: the commit's hash.
    """
    try:
        _git(repository, "cat-file", "-e", f"{commit}^{{commit}}")
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def _git(folder: Path, *arguments: str) -> None:
    environment = {**os.environ, "LC_ALL": "C"}
    # The run's own code is what its commit says, whatever a hook of the user would do.
    command = ["git", "-c", "core.hooksPath=/dev/null", *arguments]
    subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)


def _said(error: subprocess.CalledProcessError) -> str:
    text: str = error.stderr.decode(errors="replace")
    return " ".join(text.split()).removeprefix("error: ")
