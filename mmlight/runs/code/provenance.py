"""What ran: the code's commit, what was uncommitted, packages, machine, command line."""

import os
import platform
import shlex
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from mmlight.files import read_json, write_bytes, write_text
from mmlight.runs.code.git import Git, read_git
from mmlight.runs.code.sources import OwnCode, code_folder, import_folder, read_own_code
from mmlight.runs.run.folder import Run

PACKAGES = (
    "mmlight torch torchvision torchaudio lightning torchmetrics transformers tokenizers timm "
    "webdataset wandb jsonargparse numpy pyarrow pillow soundfile soxr scikit-learn"
).split()
# What the surroundings say that can change a result.
ENVIRONMENT = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE"),
    *("PYTHONHASHSEED", "CUDA_VISIBLE_DEVICES"),
)


def collect(
    *,
    devices: Sequence[str] = (),
    num_threads: int | None = None,
    patch: Path | None = None,
    config: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Describe what is running, in JSON's types. Never fails for want of git or a package.

    Args:
        devices: names of the accelerators, as the caller's framework gives them.
        num_threads: threads that the framework computes with on the CPU.
        patch: write what is uncommitted to this file of a run folder; where nothing is, it is
            removed. A run that other code goes on with keeps the record of its first start. The
            user's own repositories have patches beside it.
        config: the resolved configuration, which may name classes of the user's own.
    """
    git = read_git(code_folder())
    own = read_own_code(config, ours=import_folder(code_folder()))
    if patch is not None:
        run = Run(patch.parent)
        _keep_first(run, git, own)
        for old in run.path.glob("git-own-*.patch"):
            if not old.stem.endswith("-first"):
                old.unlink()
        for file, state in ((patch, git), *((run.own_patch(n), o.git) for n, o in enumerate(own))):
            if state is not None and state.patch:
                write_text(file, state.patch)
            else:
                file.unlink(missing_ok=True)
    return {
        "git": git.described() if git else None,
        "own_code": _described(own),
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


def _keep_first(run: Run, git: Git | None, own: Sequence[OwnCode]) -> None:
    if not run.provenance_json.exists() or run.first_provenance.exists():
        return
    before = read_json(run.provenance_json) or {}
    recorded = [before.get("git"), *(before.get("own_code") or ())]
    if _states(recorded) != _states([git.described() if git else None, *_described(own)]):
        patches = [(run.patch, run.first_patch)]
        numbers = range(len(recorded) - 1)
        patches += [(run.own_patch(n), run.own_patch(n, first=True)) for n in numbers]
        for patch, first in patches:
            if patch.exists():
                write_bytes(first, patch.read_bytes())
        write_bytes(run.first_provenance, run.provenance_json.read_bytes())


def _described(own: Sequence[OwnCode]) -> list[dict[str, Any]]:
    return [one.described() for one in own]


def _states(recorded: Sequence[Mapping[str, Any] | None]) -> list[tuple[Any, Any]]:
    """Return what tells one state of the code from another."""
    return [((one or {}).get("commit"), (one or {}).get("patch_sha256")) for one in recorded]


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that can change a result, those installed."""
    versions = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions
