"""What ran: the code's commit, what was uncommitted, packages, machine, command line."""

import os
import platform
import shlex
import socket
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from mmlight.runs.files import read_json, write_bytes, write_text
from mmlight.runs.git import SNAPSHOT, Git, read_git, run_git
from mmlight.runs.run import RunFolder

PACKAGES = (
    "mmlight torch torchvision torchaudio lightning torchmetrics transformers tokenizers timm "
    "webdataset wandb jsonargparse numpy pyarrow pillow soundfile soxr scikit-learn"
).split()
# What the surroundings say that can change a result.
ENVIRONMENT = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE"),
    *("PYTHONHASHSEED", "CUDA_VISIBLE_DEVICES"),
)


def code_folder() -> Path:
    """Return the folder whose git state counts.

    That is the copy that a job runs; else the package's own, where git tracks it; else the current
    folder, which is the user's project when mmlight is an installed package.
    """
    if copied := os.environ.get(SNAPSHOT):
        return Path(copied)
    package = Path(__file__).resolve().parents[1]
    tracked = run_git(package, "ls-files", "--error-unmatch", "__init__.py") is not None
    return package if tracked else Path.cwd()


def collect(
    *, devices: Sequence[str] = (), num_threads: int | None = None, patch: Path | None = None
) -> dict[str, Any]:
    """Describe what is running, in JSON's types. Never fails for want of git or a package.

    Args:
        devices: names of the accelerators, as the caller's framework gives them.
        num_threads: threads that the framework computes with on the CPU.
        patch: write what is uncommitted to this file of a run folder; where nothing is, it is
            removed. A run that other code goes on with keeps the record of its first start.
    """
    git = read_git(code_folder())
    if patch is not None:
        _keep_first(RunFolder(patch.parent), git)
        if git is not None and git.patch:
            write_text(patch, git.patch)
        else:
            patch.unlink(missing_ok=True)
    return {
        "git": git.described() if git else None,
        "command": shlex.join(sys.argv),
        "folder": str(Path.cwd()),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "num_cpus": os.cpu_count(),
        "num_threads": num_threads,
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
        "devices": list(devices),
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
        "packages": package_versions(),
    }


def _keep_first(run: RunFolder, git: Git | None) -> None:
    if not run.provenance.exists() or run.first_provenance.exists():
        return
    before = (read_json(run.provenance) or {}).get("git") or {}
    now = git.described() if git else {}
    if any(before.get(key) != now.get(key) for key in ("commit", "patch_sha256")):
        if run.patch.exists():
            write_bytes(run.first_patch, run.patch.read_bytes())
        write_bytes(run.first_provenance, run.provenance.read_bytes())


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that can change a result, those installed."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
