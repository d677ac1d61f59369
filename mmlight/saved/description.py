"""Plain descriptions of tasks, so that a checkpoint alone can rebuild its task.

A description is what YAML would hold: ``{"class_path": ..., "init_args": {...}}`` of numbers,
strings, lists and mappings. `mmlight.saved.rebuild` reads it.
"""

import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from typing import Any

from torch import nn
from torch.distributed.fsdp import FSDPModule

from mmlight.errors import UserError


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
