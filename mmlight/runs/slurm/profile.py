"""A cluster's profile, `slurm/clusters/SITE.yaml`: what a job has to ask for there."""

from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser

from mmlight import compose
from mmlight.compose import load_yaml
from mmlight.config_errors import one_line
from mmlight.errors import UserError, nearest
from mmlight.runs.slurm.shell_text import check_variable
from mmlight.runs.slurm.time_limit import seconds
from mmlight.yaml_text import parser_mode

_CHANGE = "--cluster."


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
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, Container):
                for key, text in asdict(value).items():
                    for part in text if isinstance(text, list) else [text]:
                        check_line(f"container.{key}", part)
            elif isinstance(value, dict):
                for name, text in value.items():
                    check_variable(name)
                    check_line(f"{one.name}.{name}", str(text), allowed="\n\t")
            else:
                allowed = "\n\t" if one.name == "setup" else ""  # lines of shell by intent
                for text in value if isinstance(value, list) else [value]:
                    check_line(one.name, str(text), allowed=allowed)


def check_line(key: str, text: str, *, allowed: str = "") -> None:
    """Refuse control characters: `sbatch` knows no way to quote a newline.

    Args:
        key: what holds the text.
        text: what goes into the job script.
        allowed: control characters that it may hold.

    Raises:
        UserError: it holds others.
    """
    if any((c < " " or c == "\x7f") and c not in allowed for c in text):
        raise UserError(f"{key}: {text!r} holds a control character, which no job script can hold")


def read(path: Path, *, changes: Mapping[str, str] | None = None) -> Profile:
    """Read a profile.

    Args:
        path: its YAML file, which may extend others.
        changes: values by key that replace the file's, as text.

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
