"""The code of a run, checked out beside the present one for as long as it is needed (no torch)."""

import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from mmlight.errors import UserError
from mmlight.runs.code.git import run_git
from mmlight.runs.code.recorded import Recorded
from mmlight.runs.code.sources import code_folder


@contextmanager
def recorded_code(recorded: Recorded, repositories: Sequence[Path]) -> Iterator[list[Path]]:
    """Check out all code of a run; give the folders that Python imports it from.

    Its commits are looked for in `repositories` first, which are clones.

    Raises:
        UserError: no repository has a commit, or a patch is gone or does not apply.
    """
    with ExitStack() as stack:

        def check_out(git: Mapping[str, Any], patch: Path | None, *, where: Path) -> Path:
            if (git.get("dirty") or git.get("patch_sha256")) and patch is None:
                raise UserError(
                    f"run {recorded.run.path}: was made with uncommitted changes, and its "
                    "git.patch is gone"
                )
            commit = git["commit"]
            there = next((r for r in repositories if _has_commit(r, commit)), where)
            return stack.enter_context(_work_tree(there, commit=commit, patch=patch))

        paths = []
        git = recorded.git
        if git is None:
            paths.append(Path(__file__).resolve().parents[3])
        else:
            where = repositories[0] if repositories else code_folder()
            tree = check_out(git, recorded.patch, where=where)
            # The package's folder, or that of a project that uses an installed mmlight.
            prefix = Path(git.get("prefix", "mmlight"))
            is_package = (tree / prefix / "__main__.py").exists()
            paths.append(tree / (prefix.parent if is_package else prefix))
        for number, own in enumerate(recorded.own_code):
            if "commit" not in own:
                paths.append(Path(own["folder"]))
                continue
            where = Path(own.get("top") or own["folder"])
            tree = check_out(own, recorded.own_patch(number), where=where)
            paths.append(tree / own.get("prefix", ""))
        yield paths


@contextmanager
def _work_tree(repository: Path, *, commit: str, patch: Path | None) -> Iterator[Path]:
    """Give a temporary work tree of a commit with a patch applied, and remove it afterwards."""
    if not _has_commit(repository, commit):
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
                    said = " ".join(error.stderr.decode(errors="replace").split())
                    raise UserError(
                        f"{patch} does not apply to commit {commit[:12]}: "
                        f"{said.removeprefix('error: ')}"
                    ) from None
            yield tree
        finally:
            run_git(repository, "worktree", "remove", "--force", str(tree))


def _has_commit(repository: Path, commit: str) -> bool:
    return run_git(repository, "cat-file", "-e", f"{commit}^{{commit}}") is not None


def _git(folder: Path, *arguments: str) -> None:
    environment = {**os.environ, "LC_ALL": "C"}
    # The run's own code is what its commit says, whatever a hook of the user would do.
    command = ["git", "-c", "core.hooksPath=/dev/null", *arguments]
    subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)
