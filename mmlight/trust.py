"""Which code besides mmlight's own a checkpoint may name.

A configuration is code: its author decides what is imported. A checkpoint is not: it may come from
anyone, so its classes are mmlight's, or the user has named them (``--import``, MMLIGHT_TRUST).
"""

import os
from collections.abc import Iterable

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
