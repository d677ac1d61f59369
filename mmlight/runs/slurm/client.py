"""SLURM's commands: submit, ask, cancel. Needs neither sacct nor SLURM's Python package."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmlight.errors import UserError

MISSING = "SLURM is not on this machine (no `{}` here)"
# Options of a surrounding job would become options of the new one; these say where SLURM is.
_KEPT = ("SLURM_CONF", "SLURM_CLUSTERS")
# Options of the user's shell would win over those of a script, and change what `squeue` lists.
_OPTIONS = ("SLURM_", "SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SCANCEL_", "SCONTROL_", "SINFO_")
# What its commands say where they have no cluster to talk to, and what is said of that.
_NO_CLUSTER = {
    "configuration source": "SLURM is not set up on this machine (its commands find no slurm.conf)",
    "Unable to contact slurm controller": "SLURM's controller does not answer",
}
# Of `squeue`, the fields of `QueuedJob`. The reason comes last: it alone may hold a `|`.
_COLUMNS = ("%i", "%T", "%S", "%P", "%r")
ACTIVE = frozenset(
    "PENDING RUNNING CONFIGURING COMPLETING SUSPENDED REQUEUED REQUEUE_HOLD RESIZING SIGNALING "
    "STAGE_OUT STOPPED SPECIAL_EXIT REQUEUE_FED RESV_DEL_HOLD".split()
)


class Unreachable(UserError):
    """SLURM is not on this machine, or does not answer."""


@dataclass(frozen=True)
class QueuedJob:
    """What SLURM knows of a job; it forgets one some minutes after the job's end.

    Attributes:
        id: the job's id; of an array's task, ``123_4``.
        state: such as ``RUNNING``.
        start: when it began or is expected to, ``2026-01-31T12:00:00`` or ``N/A``.
        partition: where it runs; where it waits, those it may run in, with commas.
        reason: why it waits.
    """

    id: str
    state: str
    start: str
    partition: str
    reason: str

    @property
    def is_active(self) -> bool:
        """Whether it runs, waits, or will run again."""
        return self.state in ACTIVE


def is_here(command: str = "sbatch") -> bool:
    """Return whether SLURM's commands are on this machine."""
    return shutil.which(command) is not None


def submit(script: Path, *, options: Sequence[str] = ()) -> str:
    """Hand a job script to `sbatch`; return the job's id.

    Raises:
        UserError: SLURM is not here, or refuses the job; the message says why.
    """
    said = run("sbatch", "--parsable", *options, str(script))
    return said.strip().splitlines()[-1].partition(";")[0]


def would_start(script: Path) -> str:
    """Ask SLURM whether it would take a job script; return what it says of the start.

    Raises:
        UserError: it would not, and why.
    """
    return run("sbatch", "--test-only", str(script), output="stderr")


def queue(*, users: Iterable[str] = ()) -> dict[str, QueuedJob]:
    """Return the jobs SLURM knows, by id, those that ended within minutes too. One `squeue`.

    Args:
        users: only theirs.
    """
    asked = ["--noheader", "--array", "--states=all", f"--format={'|'.join(_COLUMNS)}"]
    if by := sorted(set(users)):
        asked.append(f"--user={','.join(by)}")
    said = run("squeue", *asked).splitlines()
    rows = [line.split("|", len(_COLUMNS) - 1) for line in said if line]
    return {row[0]: QueuedJob(*row) for row in rows}


def cancel(jobs: Sequence[str]) -> None:
    """End jobs, waiting ones too."""
    run("scancel", *jobs)


def show(kind: str, name: str) -> dict[str, str]:
    """Return `scontrol show KIND NAME` as keys and values; empty where there is none such.

    Args:
        kind: ``job``, ``node`` or ``partition``.
        name: which one.
    """
    try:
        said = run("scontrol", "--oneliner", "show", kind, name)
    except Unreachable:
        raise
    except UserError:
        return {}
    words = [word.partition("=") for word in said.split()]
    return {key: value for key, equals, value in words if equals}


def max_array_size() -> int | None:
    """Return how many tasks an array may have; None where SLURM does not say."""
    try:
        said = run("scontrol", "show", "config")
    except UserError:
        return None
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", said, re.M)
    return int(found[1]) if found else None


def run(command: str, *arguments: str, output: str = "stdout") -> str:
    """Run one of SLURM's commands; return what it prints.

    Args:
        command: such as ``scontrol``.
        arguments: its arguments.
        output: which of its two outputs is returned.

    Raises:
        Unreachable: it is not here or does not answer.
        UserError: it refuses.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(_OPTIONS) or k in _KEPT}
    try:
        done = subprocess.run(
            [command, *arguments], env=kept, capture_output=True, text=True, timeout=60
        )
    except FileNotFoundError:
        raise Unreachable(MISSING.format(command)) from None
    except subprocess.TimeoutExpired:
        raise Unreachable(
            f"{command} has not answered for 60 s: is SLURM's controller up?"
        ) from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        for sign, meaning in _NO_CLUSTER.items():
            if any(sign in line for line in lines):
                raise Unreachable(meaning)
        said = " ".join(line.removeprefix(f"{command}: ").removeprefix("error: ") for line in lines)
        raise UserError(f"{command} refuses: {said}")
    return done.stderr if output == "stderr" else done.stdout
