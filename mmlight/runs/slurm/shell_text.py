"""Values as a shell reads them: quoted, and variables that stand for what the node has in them."""

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping

from mmlight.errors import UserError

# `\$` is a dollar sign, `$NAME` and `${NAME}` are variables; any other dollar sign is one.
_REFERENCE = re.compile(r"\\\$|\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})")
# What the job script itself works with, and what bash lets nobody assign.
_OWN = frozenset(
    "address array_task code command cwd ended first host_python id ids imports name python root "
    "run srun MASTER_ADDR MASTER_PORT BASHOPTS BASH_VERSINFO EUID PPID SHELLOPTS UID BASH_SOURCE "
    "BASH_COMMAND".split()
)
_OWN_PREFIXES = ("MMLIGHT_", "SLURM_")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def check_variable(name: str) -> None:
    """Refuse what no shell takes as a variable's name, and the names of the job script's own.

    Raises:
        UserError: it is one of these.
    """
    if not _VARIABLE.fullmatch(name):
        raise UserError(f"environment: {name!r} is no name of a variable")
    if name in _OWN or (name.startswith(_OWN_PREFIXES) and name != "MMLIGHT_GUARD"):
        raise UserError(f"environment: {name} is a variable of the job script or the shell itself")


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

    Args:
        values: by name.
    """
    for name, value in values.items():
        text = str(value)
        found = [m[1] or m[2] for m in _REFERENCE.finditer(text) if m[1] or m[2]]
        for other in dict.fromkeys(found):
            if other != name:
                told = quoted(f"environment.{name}: ${other} is not set on this node")
                yield f"[[ -v {other} ]] || give_up {told}"
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
