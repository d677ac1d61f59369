"""The id of a run: what all of its ranks and restarts agree on."""

import os
import re
import secrets
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from mmlight.errors import UserError
from mmlight.files import read_json
from mmlight.runs.run.signature import signature
from mmlight.runs.slurm.job import job_name

RUN_ID = "MMLIGHT_RUN_ID"
_OWNER = "MMLIGHT_RUN_OWNER"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def choose_id(folder: Path, config: Mapping[str, Any] | None) -> str:
    """Return the id of a run that begins, see `Run.create`.

    Args:
        folder: of the experiment's runs.
        config: the resolved configuration, which tells runs of one SLURM job apart.

    Raises:
        UserError: several processes were started without anything to agree on.
    """
    known = agreed_id(os.environ)
    if known is None:
        if "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError(
                f"{os.environ['WORLD_SIZE']} processes were started without a common run id; "
                f"set {RUN_ID} to the same value for all of them, or start torchrun with "
                "--rdzv-id"
            )
        return f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    if config is not None and known == job_name(os.environ):
        return next(path.name for path in runs_of_job(folder, known) if _is_of(path, config))
    return known


def agreed_id(environ: Mapping[str, str]) -> str | None:
    """Return the id that all ranks and restarts of this run know, or None.

    Args:
        environ: the environment variables.
    """
    ours = environ.get(_OWNER) == str(os.getpid())  # exported by this process for its children
    if environ.get(RUN_ID) and not ours:
        return environ[RUN_ID]
    if job := job_name(environ):
        return job
    if environ.get("TORCHELASTIC_RUN_ID", "none") != "none":
        return environ["TORCHELASTIC_RUN_ID"]
    return None


def agree_on(run_id: str) -> None:
    """Export a run's id, so that the ranks which this process starts agree with it."""
    if os.environ.get(RUN_ID) == run_id:
        return
    os.environ[RUN_ID] = run_id
    os.environ[_OWNER] = str(os.getpid())


def checked(what: str, value: str) -> str:
    """Return a name or an id, refusing one that cannot name a folder.

    Args:
        what: ``name`` or ``id``.
        value: it.

    Raises:
        UserError: it holds other characters, or begins with one that a folder's should not.
    """
    if not _NAME.fullmatch(value):
        raise UserError(
            f"run {what} {value!r} cannot name a folder; use letters, digits, '.', '-' and '_', "
            "beginning with a letter or a digit"
        )
    return value


def runs_of_job(folder: Path, job: str) -> Iterator[Path]:
    """Yield the folders of all runs that one job may have, there or not."""
    yield folder / job
    for number in count(2):
        yield folder / f"{job}-{number}"


def _is_of(path: Path, config: Mapping[str, Any]) -> bool:
    """Return whether a job's folder is free, or that of this run.

    It is another's where it has other settings, or has finished; but a job that SLURM starts again
    comes by what it has finished before.
    """
    saved = path / "config.yaml"
    if not saved.exists():
        return True
    status = (read_json(path / "summary.json") or {}).get("status")
    if status == "finished" and os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
        return False
    return signature(yaml.safe_load(saved.read_text())) == signature(config)
