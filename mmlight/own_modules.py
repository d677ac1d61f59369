"""Modules of the user's own: ``--import my_module``, or ``import: my_module`` in an experiment.

They are found in the working directory too. A user who names a module trusts it: checkpoints may
name its classes then. A configuration is code: its author decides what is imported. A checkpoint is
not: it may come from anyone, so its classes are mmlight's, or of modules that the user has named
(``--import``, MMLIGHT_TRUST). It never imports anything by itself.
"""

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mmlight.errors import UserError, nearest

FLAG = "--import"
KEY = "import"
TRUST = "MMLIGHT_TRUST"
_allowed: set[str] = set()


def allow(names: Iterable[str]) -> None:
    """Let checkpoints name classes, from now on in this process.

    Args:
        names: modules (``my_module``: everything in it) or classes (``my_module.MyEncoder``).
    """
    _allowed.update(name for name in names if name)


def is_allowed(path: str, *, trust: Iterable[str] = ()) -> bool:
    """Return whether the user has named a class, or a module that it is in.

    Args:
        path: dotted path of the class.
        trust: further names, besides those of `allow` and of the variable MMLIGHT_TRUST, which
            holds some with commas between them.
    """
    of_variable = (name.strip() for name in os.environ.get(TRUST, "").split(","))
    names = {*_allowed, *trust, *of_variable} - {""}
    return any(path == name or path.startswith(f"{name}.") for name in names)


def see_working_folder() -> None:
    """Let Python find modules in the working directory, behind all that is installed.

    Behind: a file there that is called as a package never hides the package.
    """
    folder = str(Path.cwd())
    if folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)
        importlib.invalidate_caches()


def take_imports(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take ``--import NAME`` (several times, or names with commas between) out of the arguments.

    Returns:
        The other arguments, and the modules.

    Raises:
        UserError: a flag without a name.
    """
    others: list[str] = []
    names: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        flag, equals, value = argument.partition("=")
        if flag != FLAG:
            others.append(argument)
            continue
        value = value if equals else next(rest, "")
        if not value or value.startswith("-"):
            raise UserError(f"{FLAG} needs the name of a module, such as my_module")
        names += names_of(value, where=FLAG)
    return others, names


def names_of(value: Any, *, where: str) -> list[str]:
    """Return the modules that a setting names: a text with commas between, or a list.

    Raises:
        UserError: something else, or what is no name of a module.
    """
    given = value if isinstance(value, list) else [value] if value is not None else []
    if not all(isinstance(name, str) for name in given):
        raise UserError(f"{where}: must name modules, not {value!r}")
    text = ",".join(given).strip("[]")
    names = [name.strip(" \"'") for name in text.split(",") if name.strip(" \"'")]
    for name in names:
        if name.endswith(".py") or "/" in name:
            meant = Path(name).stem
            raise UserError(f"{where} {name}: is a file; name the module: {FLAG} {meant}")
        if not all(part.isidentifier() for part in name.split(".")):
            raise UserError(f"{where} {name}: is no name of a module")
    return names


def bring_in(names: Iterable[str]) -> None:
    """Import modules of the user's own, whose classes checkpoints may name from now on.

    Raises:
        UserError: there is no such module, or it cannot be imported.
    """
    for name in names:
        allow([name])
        if name in sys.modules:
            continue
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a module of the user's raises
            reason = _reason(error)
            missing = error.name if isinstance(error, ModuleNotFoundError) else None
            if missing is not None and f"{name}.".startswith(f"{missing}."):
                near = nearest(name, (path.stem for path in Path.cwd().glob("*.py")))
                reason = f"there is no such module in {Path.cwd()} or installed{near}"
            raise UserError(f"{FLAG} {name}: {reason}") from error


def _reason(error: Exception) -> str:
    """Return the user's line that an error came from, and what it says."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "importlib" not in f.filename and f.filename != __file__]
    where = f"{own[-1].filename}, line {own[-1].lineno}: " if own else ""
    return where + (" ".join(str(error).split()) or type(error).__name__)
