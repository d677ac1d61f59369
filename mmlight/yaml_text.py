"""YAML in which text stays text: what is quoted, `off` and `no`, dates, times of day.

YAML 1.1, which PyYAML reads, makes `off` false, `12:30:00` 45000, `007` 7 and `2024-01-01` a date,
and leaves `1e-3` a text. Here these are texts (a setting that is true or false still takes `off`),
`1e-3` is a number, and a key that comes twice is refused.

The command line's parser takes each text for YAML once more, so that a caption ``[laughs]`` became
a list and ``# monday`` nothing: it leaves `Quoted` texts alone, and `parse_value` most others.
"""

import json
import re
from argparse import Namespace
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import yaml

_TAG = "tag:yaml.org,2002:"
# Those in C take a tenth of the time.
_BaseLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_BaseDumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_MODE = "mmlight"
_GUARD = "\ue000"  # a character that is none
_SWITCHES = ("yes", "no", "on", "off")
_RULES = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "merge": (r"<<", "<"),
    "int": (r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+)", "-+0123456789"),
    "float": (
        r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+|[-+]?[0-9][0-9_]*\.[0-9_]*"
        r"|[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
}
# What may be more than a text: a form of above, a list or mapping in brackets, several lines.
_MORE = re.compile(rf"\s*(?:{'|'.join(form for form, _ in _RULES.values())})\s*")


class Quoted(str):
    """A text that a configuration quotes, though it looks like something else."""

    __slots__ = ()


class _Loader(_BaseLoader):  # type: ignore[misc,valid-type]
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (as the base class has it)


class _LayerDumper(_BaseDumper):  # type: ignore[misc,valid-type]
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012


class _FileDumper(_BaseDumper):  # type: ignore[misc,valid-type]
    pass


for _kind, (_form, _first) in _RULES.items():
    for _class in (_Loader, _LayerDumper, _FileDumper):
        _class.add_implicit_resolver(f"{_TAG}{_kind}", re.compile(f"(?:{_form})$"), list(_first))


def _construct_text(loader: Any, node: Any) -> str:
    text: str = loader.construct_scalar(node)
    is_switch = not node.style and text.lower() in _SWITCHES
    return Quoted(text) if _is_more(text) and not is_switch else text


def _is_structure(text: str) -> bool:
    return text.lstrip()[:1] in ("{", "[") or "\n" in text


def _represent_text(dumper: Any, text: str) -> Any:
    try:
        text.encode()
    except UnicodeEncodeError:  # a file name that is not UTF-8, which YAML cannot hold
        # Whether all surrogates are bytes that Python could not decode.
        is_escaped = all("\udc80" <= c <= "\udcff" for c in text if "\ud800" <= c <= "\udfff")
        whole = text.encode("utf-8", "surrogateescape" if is_escaped else "replace")
        text = type(text)(whole.decode("utf-8", "replace"))
    style = "'" if isinstance(text, Quoted) else None
    return dumper.represent_scalar(f"{_TAG}str", str(text), style=style)


_Loader.add_constructor(f"{_TAG}str", _construct_text)
for _dumper in (_LayerDumper, _FileDumper, yaml.SafeDumper, _BaseDumper):
    _dumper.add_representer(Quoted, _represent_text)
for _dumper in (_LayerDumper, _FileDumper):
    _dumper.add_representer(str, _represent_text)


def load(text: str) -> Any:
    """Return what a text of YAML says.

    Raises:
        yaml.YAMLError: not YAML, or a key that comes twice in one mapping.
        ValueError: a value that is not what its tag promises.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_keys(node, set())
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check_keys(node: Any, checked: set[int]) -> None:
    if id(node) in checked or isinstance(node, yaml.ScalarNode):
        return
    checked.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_keys(item, checked)
        return
    lines: dict[tuple[str, str], int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if isinstance(key, yaml.ScalarNode) and key.tag != f"{_TAG}merge":
            before = lines.get((key.tag, key.value))
            if before is not None:
                where = f" (line {before} too)" if before != line else ""
                problem = f"key `{key.value}` comes twice{where}; write what belongs to it once"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            lines[key.tag, key.value] = line
        _check_keys(value, checked)


def dump(values: Any) -> str:
    """Return values as YAML that every reader takes alike: texts are quoted where in doubt."""
    return str(yaml.dump(values, Dumper=_FileDumper, sort_keys=False))


def dump_layer(values: Any) -> str:
    """Return what `load` gave as YAML that it reads alike: `off` stays without quotation marks."""
    return str(yaml.dump(values, Dumper=_LayerDumper, sort_keys=False))


def parse_value(text: str) -> Any:
    """Return what the command line's parser makes of a text, where it may be more than that.

    Lists and mappings in brackets, configurations of several lines, and single words such as
    ``true``, ``off`` or ``1e-3`` (which the parser takes only where no text is wanted).

    Raises:
        yaml.YAMLError: it looks like a list or a mapping and is none.
    """
    if text.startswith("["):
        with suppress(ValueError):  # JSON: YAML knows no pairs of surrogates
            return json.loads(text)
    if _is_structure(text):
        value = load(text)
        # ``{cat}`` would be a mapping of cat to nothing.
        is_text = isinstance(value, dict) and ":" not in text
        return value if isinstance(value, dict | list) and not is_text else text
    word = text.strip().lower()
    if word in _SWITCHES:
        return word in ("yes", "on")
    return load(text) if word and word != "~" and _MORE.fullmatch(text) else text


def plain(value: Any) -> Any:
    """Return a value (a parser's namespace is changed in place) without `Quoted` texts."""
    return _changed(value, lambda text: str(text).removeprefix(_GUARD))


def guarded(value: Any) -> Any:
    """Return a value whose free settings (in mappings and lists) the parser writes as they are.

    It reads texts of no certain type once more before it writes them, `no` as false; `plain` takes
    the guard away. A parser's namespace is changed in place.
    """
    if isinstance(value, Namespace):
        vars(value).update({key: guarded(item) for key, item in vars(value).items()})
        return value
    if type(value) is list and any(isinstance(item, Namespace) for item in value):
        return [guarded(item) for item in value]
    if isinstance(value, str):
        return value
    return _changed(value, lambda text: f"{_GUARD}{text}" if _is_more(text) else text)


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Namespace):
        vars(value).update({key: _changed(item, change) for key, item in vars(value).items()})
        return value
    if type(value) is dict:
        return {_changed(key, change): _changed(item, change) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_changed(item, change) for item in value)
    return value


def _is_more(text: str) -> bool:
    is_simple = text.lower() in _SWITCHES or _MORE.fullmatch(text) is not None
    return is_simple or _is_structure(text)


def parser_mode() -> str:
    """Return the mode of a jsonargparse parser that takes texts for what they are, here."""
    from jsonargparse import set_dumper, set_loader

    set_loader(_MODE, parse_value, (yaml.YAMLError,))
    set_dumper(_MODE, dump)
    return _MODE
