"""A cluster's profile, `slurm/clusters/SITE.yaml`: what a job has to ask for there.

`sbatch` lets ``SBATCH_PARTITION`` of the submitting shell win over what a job script says, and
hands ``SRUN_...`` on to the job. The profile says what a job asks for, whoever submits it:
`client.run` keeps them all back. Where the profile leaves open who pays and where a job goes, the
shell may say it.
"""

import os
import re
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser

from mmlight import compose
from mmlight.compose import load_yaml
from mmlight.config_errors import one_line
from mmlight.errors import UserError, nearest
from mmlight.runs.slurm.durations import seconds
from mmlight.terminal import note
from mmlight.yaml_text import parser_mode

_CHANGE = "--cluster."
# Whom a job asks; the shell may say it where the profile does not.
SERVES = ("partition", "account", "qos", "constraint", "reservation")
# What the job script itself works with, and what bash lets nobody assign.
_OWN = frozenset(
    "address array_task code command cwd ended first host_python id ids imports name python root "
    "run srun MASTER_ADDR MASTER_PORT BASHOPTS BASH_VERSINFO EUID PPID SHELLOPTS UID BASH_SOURCE "
    "BASH_COMMAND".split()
)
_OWN_PREFIXES = ("MMLIGHT_", "SLURM_")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Container:
    """The image that training runs in.

    Attributes:
        runtime: ``apptainer`` (also singularity), or ``pyxis``, NVIDIA's plugin of srun.
        image: a file or an address, as the runtime takes it.
        mounts: folders that the container sees, beside those of the run, the code and the place
            of submission; ``/data`` or ``/data:/inside``.
        options: further options of `apptainer exec`, or of srun for pyxis.
    """

    runtime: Literal["apptainer", "pyxis"]
    image: str
    mounts: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Profile:
    r"""What a job asks for on one cluster. What is None is left to the cluster's own default.

    Attributes:
        partition: SLURM's partition (queue).
        account: whose budget pays.
        qos: quality of service.
        constraint: features of nodes, such as ``a100&nvlink``.
        reservation: a reservation's name.
        time: how long one job may run, as SLURM writes it: ``1-12:00:00``, ``04:00:00``, minutes.
        gpus_per_node: GPUs of a node; 0 where there are none.
        gres: how GPUs are asked for; None asks for ``gpu:N``. A type is said ``gpu:a100``.
        max_nodes: how many nodes a job may have.
        cpus_per_task: CPU cores of each process, its data loading included.
        memory_per_node: such as ``128G``; ``0`` for all of it.
        exclusive: whether the job shares its nodes with no other.
        signal_lead_s: so many seconds before its time is up a job is warned, saves and goes on in
            a further job.
        on_preemption: how a warned run goes on: ``requeue`` its job, or ``resubmit`` it as a new
            one, where the site's preemption cancels jobs.
        max_requeues: how often a run may go on in all.
        max_stuck: how often in a row it may end without one step made.
        modules: environment modules to load.
        setup: lines of shell that run before training, on the first node. One that fails ends the
            job, and the run is given up; `|| true` behind it lets it fail.
        environment: variables for the training processes. ``$NAME`` and ``${NAME}`` stand for what
            the node has in them, ``\$`` for a dollar sign.
        container: the image that training runs in; None for none.
        python: the interpreter of the training processes; None for the one that submits, which
            every node must see at the same path.
        sbatch: further options of sbatch, such as ``--mail-type=FAIL``.
        srun: further options of srun.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    time: str = "04:00:00"
    gpus_per_node: int = 0
    gres: str | None = None
    max_nodes: int | None = None
    cpus_per_task: int = 1
    memory_per_node: str | None = None
    exclusive: bool = False
    signal_lead_s: int = 120
    on_preemption: Literal["requeue", "resubmit"] = "requeue"
    max_requeues: int = 50
    max_stuck: int = 2
    modules: list[str] = field(default_factory=list)
    setup: list[str] = field(default_factory=list)
    environment: dict[str, str | int | float] = field(default_factory=dict)
    container: Container | None = None
    python: str | None = None
    sbatch: list[str] = field(default_factory=list)
    srun: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for key, least in (
            *(("gpus_per_node", 0), ("cpus_per_task", 1), ("signal_lead_s", 1)),
            *(("max_requeues", 0), ("max_stuck", 1), ("max_nodes", 1)),
        ):
            value = getattr(self, key)
            if value is not None and value < least:
                raise UserError(f"{key}: must be {least} or more, not {value}")
        limit = seconds(self.time)
        if limit <= self.signal_lead_s:
            raise UserError(
                f"signal_lead_s: {self.signal_lead_s} s is not less than the job's time, "
                f"{self.time} ({limit} s)"
            )
        # SLURM counts the lead in 16 bits.
        if self.signal_lead_s > 65535:
            raise UserError(f"signal_lead_s: must be 65535 at most, not {self.signal_lead_s}")

    def check_lines(self) -> None:
        """Refuse what would end a line of the job script and begin another.

        Raises:
            UserError: a control character in a value, or a name that no variable can have.
        """
        for name in self.environment:
            _check_variable(name)
        for key, value in asdict(self).items():
            _check_lines(key, value)


def _check_lines(key: str, value: Any) -> None:
    if isinstance(value, dict):
        for name, part in value.items():
            _check_lines(f"{key}.{name}", part)
    elif isinstance(value, list):
        for part in value:
            _check_lines(key, part)
    else:
        several = key == "setup" or key.startswith("environment.")  # lines of shell by intent
        check_line(key, str(value), allowed="\n\t" if several else "")


def check_line(key: str, text: str, *, allowed: str = "") -> None:
    """Refuse control characters but for some: `sbatch` knows no way to quote a newline.

    Raises:
        UserError: the text holds others; `key` is what holds the text.
    """
    if any((c < " " or c == "\x7f") and c not in allowed for c in text):
        raise UserError(f"{key}: {text!r} holds a control character, which no job script can hold")


def _check_variable(name: str) -> None:
    """Refuse what no shell takes as a variable's name, and the names of the job script's own."""
    if not _VARIABLE.fullmatch(name):
        raise UserError(f"environment: {name!r} is no name of a variable")
    if name in _OWN or (name.startswith(_OWN_PREFIXES) and name != "MMLIGHT_GUARD"):
        raise UserError(f"environment: {name} is a variable of the job script or the shell itself")


def read(path: Path, *, changes: Mapping[str, str] | None = None) -> Profile:
    """Read a profile, which may extend others; `changes` replace its values by key, as text.

    Raises:
        UserError: no such file, an unknown key, or a value that is none.
    """
    values: dict[str, Any] = {}
    for layer in compose.expand(path):
        values |= layer.values
    for key, text in (changes or {}).items():
        values[key] = text if key == "time" else load_yaml(text, where=f"--cluster.{key}")
    known = [f.name for f in fields(Profile)]
    for key in values:
        if key not in known:
            raise UserError(f"cluster {path}: unknown key `{key}`{nearest(str(key), known)}")
    parser = ArgumentParser(exit_on_error=False, parser_mode=parser_mode())
    parser.add_class_arguments(Profile, "cluster")
    try:
        parsed = parser.parse_object({"cluster": _texts(values)})
        profile: Profile = parser.instantiate(parsed)["cluster"]
        profile.check_lines()
        return profile
    except (ArgumentError, UserError) as error:
        said = str(error) if isinstance(error, UserError) else one_line(str(error), known_keys=[])
        raise UserError(f"cluster {path}: {said.removeprefix('cluster.')}") from error


def read_profile(cluster: Path, *, changes: Mapping[str, str]) -> Profile:
    """Read a profile for a job, and say what becomes of the shell's own options.

    Raises:
        UserError: as `read`.
    """
    site = read(cluster, changes=changes)
    found, lines = with_shell(site, os.environ)
    for line in lines:
        note(line)
    return found


def with_shell(site: Profile, environ: Mapping[str, str]) -> tuple[Profile, list[str]]:
    """Return a profile with what only the shell says, and a line on each of the shell's options."""
    lines = []
    taken: dict[str, Any] = {}
    for name in sorted(environ):
        kind, _, rest = name.partition("_")
        if kind not in ("SBATCH", "SRUN"):
            continue
        key, said = rest.lower(), f"{name}={environ[name]} of the shell"
        if kind == "SRUN" or key not in SERVES:
            lines.append(f"{said} is left out: a job asks for what its cluster's profile says")
        elif getattr(site, key) is not None:
            lines.append(f"{said} is overridden by the profile's {key}: {getattr(site, key)}")
        else:
            lines.append(f"{said} is used: the profile has no {key}")
            taken[key] = environ[name]
    return replace(site, **taken), lines


def _texts(values: dict[str, Any]) -> dict[str, Any]:
    """Let numbers stand where text is meant: an account `007` or `12`, a memory of 0."""
    textual = {f.name for f in fields(Profile) if f.type in (str, str | None)}
    return {
        k: str(v) if k in textual and isinstance(v, int) and not isinstance(v, bool) else v
        for k, v in values.items()
    }


def take_changes(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Split off ``--cluster.KEY VALUE``, which replaces a value of the profile.

    Returns:
        The other arguments, and the values by key.
    """
    kept: list[str] = []
    changes: dict[str, str] = {}
    rest = iter(arguments)
    for argument in rest:
        flag, equals, value = argument.partition("=")
        if not flag.startswith(_CHANGE):
            kept.append(argument)
            continue
        changes[flag.removeprefix(_CHANGE)] = value if equals else next(rest, "")
    return kept, changes
