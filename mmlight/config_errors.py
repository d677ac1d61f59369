"""Turns the parser's nested complaints into one line with the nearest right key."""

import importlib
import inspect
import re
from collections.abc import Iterable

from mmlight.errors import nearest

_KEY = re.compile(r'Parser key "([^"]+)"')
_CLASS = re.compile(r"class_path=?[ :]*'([\w.]+)'")
_UNKNOWN = re.compile(r"(?:does not accept option|Option) '([^']+)'")
_STRUCTURE = re.compile(
    r"^(?:- )?(?:Does not validate|Subtypes:|Errors:|Given value|Expected a <class 'NoneType'>)"
)


def one_line(message: str, *, known_keys: Iterable[str]) -> str:
    """Return the innermost complaint of a parser's message, with the key it is about.

    Args:
        message: what jsonargparse said, often nested over many lines.
        known_keys: keys the parser itself takes, such as ``trainer.max_steps``.
    """
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    trail: list[str] = []
    complaints: list[str] = []
    for line in lines:
        for key in _KEY.findall(line):
            if not trail or key != trail[-1]:
                trail.append(key)
        rest = _KEY.sub("", line).strip(" :-")
        if rest and not _STRUCTURE.match(line) and not rest.startswith("Problem with given"):
            complaints.append(rest)
    where = ".".join(trail)
    unknown = [key for line in complaints for key in _UNKNOWN.findall(line)]
    if unknown:
        return _unknown_key(unknown[-1], where=where, message=message, known_keys=known_keys)
    said = complaints[-1] if complaints else (lines[-1] if lines else "cannot be parsed")
    said = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", said)
    said = said.split(" Got value: Namespace(")[0].rstrip(".")
    return f"{where}: {said}" if where and where not in said else said


def _unknown_key(key: str, *, where: str, message: str, known_keys: Iterable[str]) -> str:
    classes = _CLASS.findall(message)
    parts = key.split(".")
    if where and classes:
        # The first part is what the class does not take; the rest hangs below it.
        options = [name for path in classes for name in _parameters(path)]
        hint = nearest(parts[0], options)
        return f"unknown key `{where}.{parts[0]}`{hint}"
    known = list(known_keys)
    for depth in range(1, len(parts) + 1):
        prefix = ".".join(parts[:depth])
        if not any(k == prefix or k.startswith(f"{prefix}.") for k in known):
            level = {".".join(k.split(".")[:depth]) for k in known}
            return f"unknown key `{prefix}`{nearest(prefix, level)}"
    return f"unknown key `{key}`{nearest(key, known)}"


def _parameters(class_path: str) -> list[str]:
    module_name, _, name = class_path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError):
        return []
    return list(inspect.signature(found).parameters)
