"""Conditions on samples, such as ``similarity > 0.2 and len(txt) >= 5``.

Parsed by Python's own parser into a tree, of which a few kinds of nodes are walked here: nothing is
compiled or run, no attribute is looked up, and only what stands in this file is called.
"""

import ast
import operator
import re
from collections.abc import Callable, Iterator
from typing import Any

from mmlight.data.curation.known import FACTS, Known
from mmlight.data.decode.probe import kind
from mmlight.data.members import look_up, parse_source
from mmlight.data.shards.corpus import Corpus
from mmlight.errors import UserError, nearest

_LONGEST, _DEEPEST = 10_000, 150
# Of whole numbers: larger ones can take any time to calculate and to print.
_MOST_BITS = 1024
# json:a.b, which Python's grammar has no place for; texts in quotation marks are left alone.
_SOURCE = re.compile(
    r"""("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|\b((?:\w+\.)*json):([A-Za-z_][\w.]*)"""
)
_PLACE = "_source_{}_"
_COMPARED: dict[type, Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda one, many: one in many,
    ast.NotIn: lambda one, many: one not in many,
}
_ORDERED = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_CALCULATED: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _round(value: Any, digits: Any = None) -> Any:
    if digits is not None and not (isinstance(digits, int) and abs(digits) <= 15):
        raise ValueError("rounds to 15 digits at most")
    return round(value, digits)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "len": len,
    "lower": lambda text: _text(text).lower(),
    "strip": lambda text: _text(text).strip(),
    "words": lambda text: len(_text(text).split()),
    "startswith": lambda text, start: _text(text).startswith(start),
    "endswith": lambda text, end: _text(text).endswith(end),
    "number": _number,
    "abs": abs,
    "min": min,
    "max": max,
    "round": _round,
}
_OF_MEMBERS = ("has", "size")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("is no text")
    return value


class Expression:
    """A condition, or a value, of samples.

    ``key`` and ``shard``, ``width`` and ``height`` of the image in pixels, ``duration`` of the
    sound in seconds, ``bytes`` of all members, ``size("jpg")`` and ``has("txt")`` are known from
    the index. A text member is named by its extension (``txt``), a value in JSON by ``json:a.b``,
    ``json.a.b`` or ``json["a"]["b"]``; any other name is a key of the sample's ``json``. Numbers,
    texts, lists, ``True``, ``False`` and ``None``; ``+ - * / // %``; ``< <= > >= == != in not in
    is``; ``and or not``; and len, lower, strip, words, startswith, endswith, number, abs, min, max,
    round.

    What a sample lacks is None: it is neither smaller nor larger than anything.

    Args:
        text: as above.
        corpus: of which it will be asked.

    Raises:
        UserError: it is none; the message says where.
    """

    def __init__(self, text: str, corpus: Corpus) -> None:
        self.text = text
        self._there = corpus.extensions()
        self._sources: list[str] = []
        if len(text) > _LONGEST:
            raise UserError(f"an expression of {len(text):,} characters is too long")
        try:
            self._tree = ast.parse(_SOURCE.sub(self._named, text.strip()), mode="eval").body
        except SyntaxError as error:
            at = f" at character {error.offset}" if error.offset else ""
            raise UserError(f"expression '{text}': {error.msg}{at}") from None
        except (ValueError, RecursionError, MemoryError):
            raise UserError(f"expression '{text}' can't be parsed") from None
        self._extensions: dict[str, None] = {}
        # What it names, and whether any sample has it.
        self._names: dict[str, bool] = {}
        self._check(self._tree)

    @property
    def extensions(self) -> list[str]:
        """The members that it reads."""
        return list(self._extensions)

    def holds(self, known: Known) -> bool:
        """Return whether a sample meets the condition.

        Raises:
            UserError: the condition cannot be asked of this sample, or is none.
            ValueError: a member of the sample is damaged.
        """
        value = self.value(known)
        if value is not None and not isinstance(value, bool):
            raise UserError(
                f"expression '{self.text}' is {value!r:.40} for {known.named()}, "
                "neither true nor false; compare it: ... > 0"
            )
        return bool(value)

    def value(self, known: Known) -> Any:
        """Return its value for a sample; see `holds`."""
        # Also what stands behind an `and` that is false already.
        for name, is_there in self._names.items():
            if not is_there and known.has(name):
                self._names[name] = True
        return self._value(self._tree, known)

    def check_names(self) -> None:
        """Refuse names of which no sample knew anything, when all were asked.

        Raises:
            UserError: there is one.
        """
        for name, is_there in self._names.items():
            if not is_there:
                known = [*FACTS, *self._there]
                quoted = ' (json["a b-c"] is for keys of other characters)' * (":" in name)
                raise UserError(
                    f"expression '{self.text}': no sample has '{name}'{nearest(name, known)}"
                    f"{quoted}; known without reading are {', '.join(FACTS)}, and there are "
                    f"members {', '.join(self._there)}"
                )

    def _named(self, match: re.Match[str]) -> str:
        if match[1]:
            return match[1]
        self._sources.append(f"{match[2]}:{match[3]}")
        return _PLACE.format(len(self._sources) - 1)

    def _refused(self, node: ast.AST, why: str) -> UserError:
        part = ast.unparse(node)
        for number, source in enumerate(self._sources):
            part = part.replace(_PLACE.format(number), source)
        return UserError(f"expression '{self.text}': '{part:.80}' {why}")

    def _check(self, node: ast.AST, depth: int = 0) -> None:
        """Refuse all nodes but those that `_value` walks; note what is read."""
        if depth > _DEEPEST:
            raise UserError(
                f"expression '{self.text:.80}': more than {_DEEPEST} parts inside parts"
            )
        match node:
            case ast.BoolOp() | ast.List() | ast.Tuple() | ast.Set():
                pass
            case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.UAdd()):
                pass
            case ast.BinOp(op=op) if type(op) in _CALCULATED:
                pass
            case ast.Compare(ops=ops) if all(type(op) in _COMPARED for op in ops):
                pass
            case ast.Constant(value=int() as value) if value.bit_length() > _MOST_BITS:
                raise self._refused(node, "is too large a number")
            case ast.Constant(value=int() | float() | str() | None):
                return
            case ast.Name() | ast.Attribute() | ast.Subscript(slice=ast.Constant(value=str())):
                self._read(self._source(node), node)
                return
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                known = [*_FUNCTIONS, *_OF_MEMBERS]
                if name not in known:
                    raise self._refused(node, f"is no function of ours{nearest(name, known)}")
                if name in _OF_MEMBERS:
                    named = [a for a in arguments if isinstance(a, ast.Constant)]
                    is_one = len(arguments) == 1 or name == "has"
                    if not arguments or not is_one or named != arguments:
                        raise self._refused(node, f'names a member: {name}("jpg")')
                    return
                for argument in arguments:
                    self._check(argument, depth + 1)
                return
            case _:
                raise self._refused(node, "is not allowed; see `mmlight shards filter --help`")
        for child in _parts(node):
            self._check(child, depth + 1)

    def _read(self, name: str, node: ast.AST) -> None:
        if name in FACTS:
            return
        extension, key = parse_source(name)
        if kind(extension) not in ("text", "json") or (key is None and kind(extension) == "json"):
            raise self._refused(
                node, f'is no text and no number; ask for size("{extension}") or has("{extension}")'
            )
        self._extensions[extension] = None
        self._names.setdefault(name, False)

    def _source(self, node: ast.AST) -> str:
        """Return what a name stands for: a fact, a member, or a value in a JSON member."""
        parts: list[str] = []
        while True:
            match node:
                case ast.Attribute(attr=part, value=inner):
                    pass
                case ast.Subscript(slice=ast.Constant(value=str() as part), value=inner):
                    pass
                case _:
                    break
            parts.insert(0, part)
            node = inner
        if not isinstance(node, ast.Name):
            raise self._refused(node, "is not allowed before a dot")
        parts.insert(0, node.id)
        for number, source in enumerate(self._sources):
            if parts[0] == _PLACE.format(number):
                return source
        if len(parts) == 1 and (parts[0] in FACTS or parts[0] in self._there):
            return parts[0]
        if parts[0] == "json":
            parts.pop(0)
        return f"json:{'.'.join(parts)}" if parts else "json"

    def _value(self, node: ast.AST, known: Known) -> Any:
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name() | ast.Attribute() | ast.Subscript():
                return self._look(self._source(node), known)
            case ast.BoolOp(op=op, values=values):
                stops = isinstance(op, ast.Or)
                return any(bool(self._value(v, known)) is stops for v in values) is stops
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return not self._value(operand, known)
            case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Set(elts=parts):
                return [self._value(part, known) for part in parts]
            case ast.Compare(left=left, ops=ops, comparators=others):
                return self._compare(node, left, ops, others, known)
        values = [self._value(part, known) for part in _parts(node)]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in _OF_MEMBERS:
                sizes = known.sizes()
                found = [sizes.get(str(value).lower().removeprefix(".")) for value in values]
                return found[0] if node.func.id == "size" else None not in found
        if None in values:
            return None
        try:
            return _calculated(node, values)
        except ZeroDivisionError:
            return None
        except (TypeError, ValueError, OverflowError) as error:
            raise self._refused(node, f"of {known.named()}: {error}") from None

    def _compare(
        self, node: ast.AST, left: ast.AST, ops: list[Any], others: list[Any], known: Known
    ) -> bool:
        one = self._value(left, known)
        for op, right in zip(ops, others, strict=True):
            other = self._value(right, known)
            if isinstance(op, _ORDERED) and (one is None or other is None):
                return False
            if isinstance(op, ast.In | ast.NotIn) and other is None:
                return isinstance(op, ast.NotIn)
            try:
                _check_kinds(one, other)
                if not _COMPARED[type(op)](one, other):
                    return False
            except TypeError:
                raise self._refused(
                    node,
                    f"of {known.named()}: {one!r:.40} and {other!r:.40} "
                    "can't be compared; number(...) makes a number of a text",
                ) from None
            one = other
        return True

    def _look(self, name: str, known: Known) -> Any:
        if name in FACTS:
            return known.fact(name)
        extension, key = parse_source(name)
        value = known.contents.value(extension)
        if key is not None:
            value = look_up(value, key)
        if isinstance(value, str) and key is None:
            value = value.strip()
        return value


def _check_kinds(one: Any, other: Any) -> None:
    """Refuse to look for a number among texts, or for a text among numbers: there is none.

    Raises:
        TypeError: it is asked for.
    """
    others = other if isinstance(other, list) else [other]
    if others and all({type(one), type(value)} in ({str, int}, {str, float}) for value in others):
        raise TypeError


def _calculated(node: ast.AST, values: list[Any]) -> Any:
    match node:
        case ast.Call(func=ast.Name(id=name)):
            return _FUNCTIONS[name](*values)
        case ast.UnaryOp(op=ast.USub()):
            return -values[0]
        case ast.BinOp(op=how):
            if isinstance(how, ast.Mult | ast.Mod) and {type(v) for v in values} & {str, list}:
                raise TypeError("is no number")  # copies, and the formats of texts
            found = _CALCULATED[type(how)](*values)
            if isinstance(found, int) and found.bit_length() > _MOST_BITS:
                raise OverflowError("is too large a number")
            return found
    return +values[0]


def _parts(node: ast.AST) -> Iterator[ast.expr]:
    """Yield what a node is made of, as far as it has a value; not the name of a function."""
    children = node.args if isinstance(node, ast.Call) else ast.iter_child_nodes(node)
    return (child for child in children if isinstance(child, ast.expr))
