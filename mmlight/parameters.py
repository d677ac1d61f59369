"""What a class takes: for checkpoints, for help, and for messages about settings."""

import inspect
from dataclasses import dataclass
from typing import Any, get_type_hints


@dataclass(frozen=True)
class Parameter:
    """What a class takes under a name: of which kind, and whether it must be given."""

    hint: Any
    required: bool


def parameters_of(built: type) -> dict[str, Parameter]:
    """Return the keyword arguments of a class, those that it hands on with ** included."""
    found: dict[str, Parameter] = {}
    for kind in built.__mro__:
        own = kind.__dict__.get("__init__")
        if own is None or own is object.__init__:
            continue
        try:
            hints = get_type_hints(own)
        except (NameError, TypeError):  # names that only a type checker imports
            hints = {}
        parameters = list(inspect.signature(own).parameters.values())[1:]
        for one in parameters:
            if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY):
                required = one.default is one.empty
                found.setdefault(one.name, Parameter(hints.get(one.name, Any), required))
        if not any(one.kind is one.VAR_KEYWORD for one in parameters):
            break
    return found
