"""Words of the shell: quoted values, variables of the node, and what srun and Python are given."""

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from mmlight.errors import UserError
from mmlight.runs.slurm.profile import Container, Profile

# `\$` is a dollar sign, `$NAME` and `${NAME}` are variables; any other dollar sign is one.
_REFERENCE = re.compile(r"\\\$|\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})")
# A container has its own, for its own programs.
_OF_THE_HOST = ("PATH", "LD_LIBRARY_PATH")
_GPU_OPTIONS = ("--nv", "--nvccli", "--rocm")


def quoted(value: object) -> str:
    """Return a value as a word of the shell, in which nothing is special."""
    text = shlex.quote(str(value))
    # A bare comma in an array of the shell looks like a mistake.
    return f"'{text}'" if "," in text and text[0] != "'" else text


def joined(words: Iterable[object]) -> str:
    """Return values as words of the shell."""
    return " ".join(map(quoted, words))


def exports(values: Mapping[str, object]) -> list[str]:
    """Return lines that set variables to just these values."""
    return [f"export {name}={quoted(value)}" for name, value in values.items()]


def environment(values: Mapping[str, object]) -> Iterator[str]:
    r"""Yield lines that set variables on the node.

    ``$NAME`` and ``${NAME}`` stand for what the variable holds there, ``\$`` for a dollar sign;
    nothing else is special, and no command is run. A variable that is not set gives the run up,
    but for that which is extended (``LD_LIBRARY_PATH: /x:$LD_LIBRARY_PATH``).
    """
    for name, value in values.items():
        text = str(value)
        found = [m[1] or m[2] for m in _REFERENCE.finditer(text) if m[1] or m[2]]
        for other in dict.fromkeys(found):
            if other != name:
                why = quoted(f"environment.{name}: ${other} is not set on this node")
                yield f"[[ -v {other} ]] || give_up {why}"
        yield f"export {name}={_expanded(text) if found else quoted(_REFERENCE.sub('$', text))}"


def _expanded(text: str) -> str:
    """Return a text in double quotes, in which only references to variables are special."""
    parts, end = [], 0
    for match in _REFERENCE.finditer(text):
        name = match[1] or match[2]
        parts += [_escaped(text[end : match.start()]), f"${{{name}}}" if name else r"\$"]
        end = match.end()
    return f'"{"".join(parts)}{_escaped(text[end:])}"'


def _escaped(text: str) -> str:
    return re.sub(r'([\\"$`])', r"\\\1", text)


def srun_words(profile: Profile, *, folders: Sequence[Path], cwd: Path, num_processes: int) -> str:
    """Return what srun is given, as words of the shell.

    Args:
        profile: the cluster's.
        folders: what a container has to see, beside its mounts.
        cwd: where relative paths begin, in a container too.
        num_processes: on all nodes; each line of several bears its rank.
    """
    # Since SLURM 22.05 a step no longer takes --cpus-per-task from its job.
    words = ["--kill-on-bad-exit=1", f"--cpus-per-task={profile.cpus_per_task}"]
    if num_processes > 1:
        words.append("--label")
    container = profile.container
    if container is not None and container.runtime == "pyxis":
        words += [
            f"--container-image={container.image}",
            f"--container-mounts={','.join(_mounts(container, folders))}",
            # An image's own folder otherwise.
            f"--container-workdir={cwd}",
            *container.options,
        ]
    return joined([*words, *profile.srun])


def python_words(
    profile: Profile, interpreter: str, *, folders: Sequence[Path], cwd: Path, on_gpus: bool
) -> str:
    """Return what starts Python, as words of the shell; arguments are those of `srun_words`.

    `interpreter` is Python's program, as a container sees it.
    """
    container = profile.container
    if container is None:
        return quoted(interpreter)
    words: list[str] = []
    if container.runtime == "apptainer":
        words = ["apptainer", "exec"]
        if on_gpus and not any(option in _GPU_OPTIONS for option in container.options):
            words.append("--nv")  # NVIDIA's driver is the host's
        words += [f"--bind={m}" for m in _mounts(container, folders)]
        words += [f"--pwd={cwd}", *container.options, container.image]
    # An image may set variables of these names, which would win over the job's.
    names = [n for n in profile.environment if n not in _OF_THE_HOST and n != "PYTHONPATH"]
    given = [f'"{name}=${{{name}-}}"' for name in ("PYTHONPATH", *names)]
    return " ".join([*map(quoted, words), "env", *given, quoted(interpreter)])


def _mounts(container: Container, folders: Sequence[Path]) -> list[str]:
    """Return the mounts as ``FROM:TO``; a folder within another needs none."""
    for folder in folders:
        if any(c in str(folder) for c in ",:"):
            raise UserError(f"{str(folder)!r} holds a comma or a colon, and can't be mounted so")
    own = [m for m in folders if not any(m != n and m.is_relative_to(n) for n in folders)]
    given = (m if ":" in m else f"{m}:{m}" for m in container.mounts)
    return [*dict.fromkeys([*(f"{m}:{m}" for m in own), *given])]
