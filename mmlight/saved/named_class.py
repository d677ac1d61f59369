"""Finds the class that a checkpoint names, without running anything for it."""

import inspect
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from mmlight import trust as trusted
from mmlight.errors import UserError

_PACKAGE = "mmlight"


def named_class(path: str, base: type, *, trust: Sequence[str], where: str) -> type:
    """Return a class of mmlight, or of a module that the user has allowed.

    Nothing else is imported, and nothing that is not this very class is taken: no function, no name
    under which another module holds it.

    Args:
        path: module and name, with dots.
        base: what it must be a subclass of.
        trust: modules that this call allows.
        where: its place in the description, for messages.

    Raises:
        UserError: there is no such class, it is of another kind, or from elsewhere.
    """
    at = f"the checkpoint's class {_shown(path)}{f' at {where}' if where else ''}"
    parts = path.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise UserError(f"{at}: is not the path of a class")
    allowed = trusted.is_allowed(path, trust=trust)
    if not allowed and parts[0] != _PACKAGE:
        raise UserError(
            f"{at}: is not part of mmlight; if you trust it, name its module: --import "
            f"{path.rpartition('.')[0]}, or {trusted.TRUST}={path.rpartition('.')[0]}"
        )
    # The longest module first: what follows it is the name of a class, or of one inside a class.
    for end in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:end])
        module = _module(module_name, base, allowed=allowed, at=at)
        if module is None:
            continue
        found: object = vars(module).get(parts[end])  # not getattr: a module may define how
        for part in parts[end + 1 :]:
            found = vars(found).get(part) if isinstance(found, type) else None
        name = ".".join(parts[end:])
        if not isinstance(found, type) or (found.__module__, found.__qualname__) != (
            module_name,
            name,
        ):
            raise UserError(f"{at}: {module_name} defines no such class")
        if not issubclass(found, base):
            raise UserError(f"{at}: is no {base.__name__}")
        if inspect.isabstract(found):
            raise UserError(f"{at}: is only the base of such classes")
        return found
    raise UserError(f"{at}: there is no such module")


def _module(name: str, base: type, *, allowed: bool, at: str) -> ModuleType | None:
    """Return a module, imported if it is one that may be; None where there is none."""
    if not allowed:
        # A class of mmlight stands in the folder of its base: of the rest nothing is imported.
        folder = ".".join(base.__module__.split(".")[:2])
        if not name.startswith(f"{folder}.") or not folder.startswith(f"{_PACKAGE}."):
            return sys.modules.get(name)
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            return None
        raise UserError(f"{at}: {name} cannot be imported: {error}") from error
    except Exception as error:  # whatever a module of the user's raises
        said = " ".join(str(error).split())
        raise UserError(f"{at}: {name} cannot be imported: {said}") from error


def _shown(path: str) -> str:
    return path if path.isascii() and path.isprintable() and len(path) <= 80 else repr(path[:60])
