"""Plain descriptions of tasks, so that a checkpoint alone can rebuild its task.

A description is what YAML would hold: ``{"class_path": ..., "init_args": {...}}`` of numbers,
strings, lists and mappings. `mmlight.saved.rebuild` reads it. The class that one names is found
without running anything for it.
"""

import functools
import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import PurePath
from types import ModuleType
from typing import Any

from torch import nn
from torch.distributed.fsdp import FSDPModule

from mmlight.errors import UserError
from mmlight.own_modules import TRUST, is_allowed

_PACKAGE = "mmlight"
# Where classes may stand besides the folder of their base: a decoder is a text tower.
_MORE_FOLDERS = {"mmlight.encoders": ("mmlight.decoders",)}


def describe(value: Any) -> Any:
    """Return the plain description of a setting.

    Args:
        value: a number, string, sequence, mapping, settings dataclass, module class, or
            `functools.partial` of one.

    Raises:
        UserError: the value cannot be written down (a lambda, a module instance).
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [describe(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: describe(getattr(value, f.name)) for f in fields(value)}
    built, arguments = _factory(value)
    return describe_call(built, arguments)


def describe_call(built: type, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of calling the class `built` with keyword `arguments`."""
    if FSDPModule in built.__bases__:  # a class that fully_shard made up around the module's own
        built = next(base for base in built.__bases__ if base is not FSDPModule)
    return {
        "class_path": f"{built.__module__}.{built.__qualname__}",
        "init_args": {key: describe(item) for key, item in arguments.items()},
    }


def _factory(value: Any) -> tuple[type, Mapping[str, Any]]:
    if isinstance(value, type):
        return value, {}
    if isinstance(value, functools.partial):
        # jsonargparse's factories hold the class among the arguments of its own instantiator.
        call = (value.func, *value.args)
        for place, candidate in enumerate(call):
            if isinstance(candidate, type) and issubclass(candidate, nn.Module):
                taken = inspect.signature(candidate)
                given = taken.bind_partial(*call[place + 1 :], **value.keywords).arguments
                for one in taken.parameters.values():
                    if one.kind is one.VAR_KEYWORD:  # what the class hands on to its base
                        given |= given.pop(one.name, {})
                return candidate, given
    raise UserError(
        f"{value!r} cannot be written into a checkpoint; "
        "give the class itself or functools.partial(Class, setting=...)"
    )


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
    allowed = is_allowed(path, trust=trust)
    if not allowed and parts[0] != _PACKAGE:
        raise UserError(
            f"{at}: is not part of mmlight; if you trust it, name its module: --import "
            f"{path.rpartition('.')[0]}, or {TRUST}={path.rpartition('.')[0]}"
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
        folders = (folder, *_MORE_FOLDERS.get(folder, ()))
        within = any(name.startswith(f"{one}.") for one in folders)
        if not within or not folder.startswith(f"{_PACKAGE}."):
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
