"""Turns the parser's nested complaints into one line with the nearest right key.

A complaint is a tree: a key, below it the types that its value could have had, below each of them
why it has not, and so on. The line follows the branch that the user meant to the innermost reason.
"""

import ast
import importlib
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Iterable
from contextlib import suppress
from pkgutil import resolve_name
from types import NoneType
from typing import Any, get_args

from mmlight.errors import nearest
from mmlight.parameters import parameters_of

_KEY = re.compile(r'Parser key "([^"]+)":')
_CLASS = re.compile(r"Problem with given class_path '([\w.]+)':")
_CALLABLE = re.compile(r"Type \S+Callable\[.*?\] expects a function or a callable class:")
_UNION = "Does not validate against any of the Union subtypes"
_GIVEN = re.compile(r"^Given value: (.*)", re.MULTILINE | re.DOTALL)
_GOT = re.compile(r"\.? Got value: (.*)", re.DOTALL)
_GOT_CLASS = re.compile(r"^Namespace\(class_path='([\w.]+)'")
_EXPECTED = re.compile(r"Expected a (.*)", re.DOTALL)
_UNKNOWN = re.compile(r"(?:Group '([^']+)' .*?)?(?:does not accept option|Option) '([^']+)'")
_UNRECOGNISED = re.compile(r"[Uu]nrecognized arguments: (\S+)")
_REQUIRED = re.compile(r"arguments are required: (.+)")
_NO_CLASS = re.compile(r"module '([\w.]+)' has no attribute '(\w+)'|No module named '([\w.]+)'")
_NESTED = re.compile(r"NestedArg\(key='([\w.]+)'")
_TYPES = {
    "<class 'int'>": "a whole number",
    "<class 'float'>": "a number",
    "<class 'bool'>": "true or false",
    "<class 'str'>": "text",
    "<class 'list'>": "a list",
    "<class 'dict'>": "keys and values",
}


def one_line(message: str, *, known_keys: Iterable[str]) -> str:
    """Return the innermost complaint of a parser's message, with the key it is about.

    Args:
        message: what jsonargparse said, often nested over many lines.
        known_keys: keys the parser itself takes, such as ``trainer.max_steps``.
    """
    where: list[str] = []
    built: str | None = None  # the class whose settings the complaint is about
    given = ""
    text = _levelled(message)
    while True:
        if match := _KEY.match(text):
            where.append(match[1])
            built = None
        elif match := _CLASS.match(text):
            built = match[1]
        elif text.startswith(_UNION):
            found = _GIVEN.search(text)
            given = found[1].partition(". Got value: ")[0].strip() if found else ""
            text = _meant(text)
            continue
        elif not (match := _CALLABLE.match(text)):
            break
        text = _levelled(text[match.end() :])
    if got := _GOT.search(text):
        text = text[: got.start()]
        if of := _GOT_CLASS.match(got[1]):
            built = of[1]
        elif not given or "Expected" in text:
            given = got[1]
    return _say(text, where=".".join(where), built=built, given=given, known=list(known_keys))


def _levelled(text: str) -> str:
    """Remove the common indentation of all lines but the first, which has none."""
    first, _, rest = text.strip().partition("\n")
    return f"{first}\n{textwrap.dedent(rest)}" if rest else first


def _meant(union: str) -> str:
    """Return the complaint of the type that the user most likely meant."""
    errors = union.partition("\nErrors:\n")[2].partition("\nGiven value type:")[0]
    # Only lines at this level begin an item; what lies deeper belongs to the item before it.
    items = [_levelled(i) for i in re.split(r"(?m)^- ", textwrap.dedent(errors)) if i.strip()]
    items = [item for item in items if item != f"Expected a {NoneType}"]
    deep = [item for item in items if _CLASS.match(item) or _KEY.match(item)]
    other = [i for i in items if not i.startswith(("Expected a ", "Not a valid subclass"))]
    kinds = [item.removeprefix("Expected a ") for item in items if item.startswith("Expected a ")]
    expected = [f"Expected a {' or '.join(kinds)}"] if kinds else []
    return next(iter([*deep, *other, *expected, *items]), "cannot be parsed")


def _say(text: str, *, where: str, built: str | None, given: str, known: list[str]) -> str:
    at = f"{where}: " if where else ""
    if unknown := _UNKNOWN.search(text):
        group, key = unknown[1], unknown[2]
        if where:
            part = key.partition(".")[0]
            path = ".".join(p for p in (where, group, part) if p)
            return f"unknown key `{path}`{nearest(part, _settings(built, group))}"
        # A group of the parser itself may stand apart from its key.
        return _unknown_top(f"{group}.{key}" if group else key, known)
    if unknown := _UNRECOGNISED.search(text):
        return _unknown_top(unknown[1].lstrip("-").partition("=")[0], known)
    if nested := _NESTED.search(text):
        of_run = f", or for a tower that comes from a run {where.removesuffix('encoder')}changes"
        return (
            f"{at}no class is named that could have a setting `{nested[1]}`; give "
            f"{where}.class_path first{of_run if where.endswith('.encoder') else ''}"
        )
    if required := _REQUIRED.search(text):
        if where:
            return f"{at}{required[1].strip()} is not set, but required"
        keys = [key.strip().rpartition(".")[2] for key in required[1].split(",")]
        return f"`{keys[0]}` is not set; give a config file: -c experiments/pretrain/NAME.yaml"
    if missing := _NO_CLASS.search(text):
        return f"{at}{_no_class(missing[1] or '', missing[2] or missing[3])}"
    if text.startswith("Not a valid subclass"):
        return _no_class_path(where, given)
    if expected := _EXPECTED.match(text):
        types = " or ".join(_named(t) for t in expected[1].split(" or "))
        return f"{at}must be {types}, not {given or 'this'}"
    said = text.split("\n")[0].strip().rstrip(".") or "cannot be parsed"
    return f"{at}{said}"


def _named(kind: str) -> str:
    kind = kind.strip().rstrip(".")
    if kind.startswith("typing.Literal["):
        return "one of " + kind.removeprefix("typing.Literal[").rstrip("]").replace("'", "")
    return _TYPES.get(kind, re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", kind))


def _unknown_top(key: str, known: list[str]) -> str:
    parts = key.split(".")
    for depth in range(1, len(parts) + 1):
        prefix = ".".join(parts[:depth])
        if not any(k == prefix or k.startswith(f"{prefix}.") for k in known):
            level = {".".join(k.split(".")[:depth]) for k in known}
            return f"unknown key `{prefix}`{nearest(prefix, level)}"
    return f"unknown key `{key}`{nearest(key, known)}"


def _no_class(module: str, name: str) -> str:
    options: list[str] = []
    with suppress(ImportError, ValueError):  # there may be no module either
        found = importlib.import_module(module)
        options = [
            *vars(found),
            *(m.name for m in pkgutil.iter_modules(getattr(found, "__path__", []))),
        ]
    path = f"{module}.{name}" if module else name
    return f"there is no class or module {path}{nearest(name, options)}"


def _no_class_path(where: str, given: str) -> str:
    value: Any = None
    with suppress(ValueError, SyntaxError):
        value = ast.literal_eval(given)
    allowed = ("class_path", "init_args")
    extra = [key for key in value if key not in allowed] if isinstance(value, dict) else []
    if extra and "class_path" in value:
        return f"unknown key `{where}.{extra[0]}`{nearest(extra[0], allowed)}"
    return f"{where}: must be a class_path and its init_args, not {given}"


def _settings(class_path: str | None, group: str | None) -> list[str]:
    """The parameters of a class, or of the settings class of one of its parameters."""
    if class_path is None:
        return []
    try:
        found: Any = resolve_name(class_path)
        for part in group.split(".") if group else ():
            hint = parameters_of(found)[part].hint
            kinds = [hint, *get_args(hint)]
            found = next(kind for kind in kinds if inspect.isclass(kind) and kind is not NoneType)
    except (ImportError, AttributeError, ValueError, KeyError, NameError, StopIteration):
        return []
    return list(parameters_of(found)) if isinstance(found, type) else []
