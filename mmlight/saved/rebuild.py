"""Builds what a checkpoint describes, and nothing else.

A description may come from anyone, so no parser of configurations sees it: those import whatever is
named, call functions and read files. Here each value is held against the annotation of the
parameter that it is for, all of them before anything is built.
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Literal, Union, get_args, get_origin

from mmlight.errors import UserError, nearest
from mmlight.own_modules import TRUST, is_allowed
from mmlight.parameters import parameters_of
from mmlight.renamed import present_names
from mmlight.saved.description import named_class

Make = Callable[[], Any]

_WHERE = "the checkpoint's description"
_FITS = "the checkpoint's settings don't fit this version: "
_KEYS = ("class_path", "init_args")


def rebuild(description: Any, *, base: type, trust: Sequence[str] = ()) -> Any:
    """Build what `describe_call` described.

    Args:
        description: mapping with `class_path` and `init_args`.
        base: the class that the result must be an instance of.
        trust: modules, besides mmlight's, whose classes it may name (see `mmlight.own_modules`).

    Raises:
        UserError: it names what is no class of its place or of a trusted module, or settings that a
            class does not take; then nothing was built.
    """
    return _built(check_description(description, base=base, trust=trust))


def check_description(description: Any, *, base: type, trust: Sequence[str] = ()) -> Make:
    """Check a description without building anything of it.

    Arguments and errors are those of `rebuild`.

    Returns:
        What builds it.
    """
    try:
        return _Reader(trust).instance(present_names(description), base, "")
    except RecursionError as error:
        raise UserError(f"{_WHERE} is nested too deeply") from error


def rebuild_settings(values: Any, kind: type, *, key: str) -> Any:
    """Build a dataclass of settings from what a checkpoint holds of it.

    Args:
        values: its fields.
        kind: the dataclass.
        key: what the checkpoint calls it, for messages.

    Raises:
        UserError: settings that it does not take.
    """
    try:
        make = _Reader(()).settings(values, kind, key)
    except RecursionError as error:
        raise UserError(f"{_WHERE} is nested too deeply") from error
    return _built(make)


def _built(make: Make) -> Any:
    try:
        return make()
    except UserError:
        raise
    except Exception as error:  # values of the right kinds that a constructor cannot take
        said = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{_FITS}{said}") from error


class _Reader:
    """Reads one description; each method returns what builds a value, once all are read."""

    def __init__(self, trust: Sequence[str]) -> None:
        self.trust = trust

    def may_read(self, source: Any) -> bool:
        """Return whether the user allows a file or the name of a model on a hub."""
        return isinstance(source, str) and is_allowed(source, trust=self.trust)

    def value(self, value: Any, hint: Any, where: str) -> Make:
        hint = getattr(hint, "__value__", hint)  # `type Name = ...`
        origin, inner = get_origin(hint), get_args(hint)
        if origin is typing.Annotated:
            return self.value(value, inner[0], where)
        if hint is Any or hint is object:
            return self.plain(value, where)
        if origin is Literal:
            if any(type(value) is type(option) and value == option for option in inner):
                return lambda: value
            raise _unfit(where, f"one of {', '.join(map(str, inner))}", value)
        if origin in (Union, types.UnionType):
            return self.one_of(value, inner, where)
        if Callable in (origin, hint):
            return self.factory(value, inner[-1] if inner else None, where)
        kind = origin or hint
        if kind in _COLLECTIONS:
            return self.collection(value, kind, inner, where)
        if not isinstance(kind, type) or (origin is not None):
            raise UserError(f"{_WHERE}: {where}: cannot hold a {hint}")
        if kind in _SCALARS or kind is types.NoneType:
            return self.scalar(value, kind, where)
        if issubclass(kind, PurePath):
            text = self.scalar(value, str, where)
            return lambda: kind(text())
        if dataclasses.is_dataclass(kind):
            return self.settings(value, kind, where)
        return self.instance(value, kind, where)

    def plain(self, value: Any, where: str) -> Make:
        """Read a value of no stated kind: numbers, strings, lists and mappings of them."""
        if value is None or type(value) in _SCALARS:
            return lambda: value
        if isinstance(value, Mapping):
            if bad := next((k for k in value if type(k) is not str or k in _KEYS), None):
                raise UserError(f"{_WHERE}: {where}: plain values have no {_shown(bad)}")
            return _mapping({k: self.plain(v, _below(where, k)) for k, v in value.items()})
        if isinstance(value, list | tuple):
            return _list([self.plain(item, where) for item in value])
        raise _unfit(where, "a plain value", value)

    def scalar(self, value: Any, kind: type, where: str) -> Make:
        if kind is float and type(value) is int:
            return lambda: float(value)
        if type(value) is not kind:
            raise _unfit(where, _SCALARS.get(kind, "nothing"), value)
        return lambda: value

    def one_of(self, value: Any, kinds: tuple[Any, ...], where: str) -> Make:
        errors: list[UserError] = []
        for kind in kinds:
            try:
                return self.value(value, kind, where)
            except UserError as error:
                errors.append(error)
        # A mapping was meant for a kind that is made of one: what that one says is the reason.
        meant = [
            error
            for error, kind in zip(errors, kinds, strict=True)
            if isinstance(value, Mapping) and kind not in _SCALARS and kind is not types.NoneType
        ]
        raise (meant or errors)[0]

    def collection(self, value: Any, kind: Any, inner: tuple[Any, ...], where: str) -> Make:
        if kind in (dict, Mapping):
            if not isinstance(value, Mapping):
                raise _unfit(where, "a mapping", value)
            of_key, of_value = inner or (str, Any)
            made: dict[Any, Make] = {}
            for key, item in value.items():
                if of_key is int and type(key) is str and key.lstrip("-").isdecimal():
                    key = int(key)  # a description has keys of text
                self.value(key, of_key, where)
                made[key] = self.value(item, of_value, _below(where, key))
            return _mapping(made)
        if not isinstance(value, list | tuple):
            raise _unfit(where, "a list", value)
        if kind is not tuple:
            return _list([self.value(item, inner[0] if inner else Any, where) for item in value])
        kinds = inner[:1] * len(value) if inner[1:] == (...,) else inner
        if inner and len(kinds) != len(value):
            raise _unfit(where, f"{len(kinds)} values", value)
        parts = _list([self.value(v, k, where) for v, k in zip(value, kinds, strict=True)])
        return lambda: tuple(parts())

    def settings(self, values: Any, kind: type, where: str) -> Make:
        """Read the fields of a dataclass."""
        if not isinstance(values, Mapping):
            raise _unfit(where, f"the settings of {kind.__name__}", values)
        arguments = self.arguments(values, kind, where)
        return lambda: kind(**arguments())

    def instance(self, value: Any, base: type, where: str) -> Make:
        """Read an object that is described by its class and settings."""
        built, arguments = self.call(value, base, where)
        return lambda: built(**arguments())

    def factory(self, value: Any, returned: Any, where: str) -> Make:
        """Read a class with settings, in the place of a function that returns its objects."""
        if not isinstance(returned, type):
            raise UserError(f"{_WHERE}: {where}: cannot hold a function")
        built, arguments = self.call(value, returned, where)
        return lambda: functools.partial(built, **arguments())

    def call(self, value: Any, base: type, where: str) -> tuple[type, Make]:
        if not isinstance(value, Mapping) or not isinstance(value.get("class_path"), str):
            raise _unfit(where, f"a class_path of a {base.__name__} and its init_args", value)
        if extra := next((key for key in value if key not in _KEYS), None):
            raise UserError(f"{_WHERE}: {where}: unknown key {_shown(extra)} beside class_path")
        built = named_class(value["class_path"], base, trust=self.trust, where=where)
        given = value.get("init_args") or {}
        if not isinstance(given, Mapping):
            raise _unfit(_below(where, "init_args"), "a mapping", given)
        return built, self.arguments(given, built, where)

    def arguments(self, given: Mapping[Any, Any], built: type, where: str) -> Make:
        known = parameters_of(built)
        made: dict[str, Make] = {}
        outside: Iterable[str] | Mapping[str, Sequence[str]] = getattr(built, "outside", ())
        for name, value in given.items():
            if name not in known:
                raise UserError(
                    f"{_FITS}{_prefix(where)}{built.__name__} has no setting {_shown(name)}"
                    f"{nearest(str(name), known)}"
                )
            at = _below(where, name)
            inside = value is None or value is False or isinstance(value, Mapping)
            if isinstance(outside, Mapping) and isinstance(value, str):
                inside |= value.rpartition(".")[0] in outside.get(name, ())
            if name in outside and not inside and not self.may_read(value):
                raise UserError(
                    f"{_WHERE}: {at}: names something outside of the checkpoint; if you trust it, "
                    f"allow it: {TRUST}={_shown(value)}"
                )
            made[name] = self.value(value, known[name].hint, at)
        missing = [n for n, known_one in known.items() if known_one.required and n not in given]
        if missing:
            raise UserError(f"{_FITS}{_prefix(where)}{built.__name__} needs {', '.join(missing)}")
        return _mapping(made)


_COLLECTIONS: tuple[Any, ...] = (list, tuple, Sequence, Iterable, dict, Mapping)
_SCALARS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def _mapping(made: dict[Any, Make]) -> Callable[[], dict[Any, Any]]:
    return lambda: {key: make() for key, make in made.items()}


def _list(made: list[Make]) -> Callable[[], list[Any]]:
    return lambda: [make() for make in made]


def _below(where: str, key: Any) -> str:
    key = str(key)
    key = key if key.isidentifier() else _shown(key)
    return f"{where}.{key}" if where else key


def _prefix(where: str) -> str:
    return f"{where}: " if where else ""


def _shown(value: Any) -> str:
    said = repr(value)
    return said if len(said) <= 60 else f"{said[:57]}..."


def _unfit(where: str, wanted: str, value: Any) -> UserError:
    return UserError(f"{_FITS}{_prefix(where)}must be {wanted}, not {_shown(value)}")
