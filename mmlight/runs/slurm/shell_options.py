"""Options of SLURM's commands that the submitting shell has in its environment.

`sbatch` lets ``SBATCH_PARTITION`` win over what a job script says, and hands ``SRUN_...`` on to the
job. The profile says what a job asks for, whoever submits it: `client.run` keeps them all back.
Where the profile leaves open who pays and where a job goes, the shell may say it.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmlight.runs.slurm import profile
from mmlight.runs.slurm.profile import Profile
from mmlight.terminal import note

_SERVES = ("partition", "account", "qos", "constraint", "reservation")


def read_profile(cluster: Path, *, changes: Mapping[str, str]) -> Profile:
    """Read a profile for a job, and say what becomes of the shell's own options.

    Args:
        cluster: path of the cluster's profile.
        changes: values in place of the profile's, by key.

    Raises:
        UserError: as `profile.read`.
    """
    site = profile.read(cluster, changes=changes)
    found, told = with_shell(site, os.environ)
    for line in told:
        note(line)
    return found


def with_shell(site: Profile, environ: Mapping[str, str]) -> tuple[Profile, list[str]]:
    """Return a profile with what only the shell says, and a line on each of the shell's options.

    Args:
        site: the profile.
        environ: the environment variables.
    """
    told = []
    taken: dict[str, Any] = {}
    for name in sorted(environ):
        kind, _, rest = name.partition("_")
        if kind not in ("SBATCH", "SRUN"):
            continue
        key, said = rest.lower(), f"{name}={environ[name]} of the shell"
        if kind == "SRUN" or key not in _SERVES:
            told.append(f"{said} is left out: a job asks for what its cluster's profile says")
        elif getattr(site, key) is not None:
            told.append(f"{said} is overridden by the profile's {key}: {getattr(site, key)}")
        else:
            told.append(f"{said} is used: the profile has no {key}")
            taken[key] = environ[name]
    return replace(site, **taken), told
