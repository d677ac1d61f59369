"""Classes are numbers: names are read, looked up and shown here, and nothing is keyed by them.

Two classes may have one name (ImageNet's usual list has two pairs): they stay two.
"""

import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmlight.errors import UserError, nearest
from mmlight.text_file import MIB, read_text_file, split_lines

_log = logging.getLogger(__name__)

# Beside shards or one folder up: a name per line, in the order of the numbers of `cls` members.
CLASS_NAMES = "classnames.txt"
# More classes than anybody has, and within what every integer type of a tensor holds.
MAX_LABEL = 2**31 - 1
_LARGEST_NAMES = 16 * MIB
# Not what `int` takes: underscores, digits of other scripts, thousands of them. Tables write 3.0
# where a column has gaps.
_DIGITS = re.compile(r"\+?([0-9]{1,19})(\.0*)?")
# Between several labels in one text.
_BETWEEN = re.compile(r"[,;|\r\n]")


class NoClassError(ValueError):
    """A text that is neither a number nor the name of a class."""


def read_names(path: str, *, what: str = "data.class_names: ") -> list[str]:
    """Return the class names of a file, one in each line.

    Args:
        path: the file.
        what: where it is named; messages begin with it.

    Raises:
        UserError: no such file, or no name in it.
    """
    text = read_text_file(path, what=f"{what}{path} cannot be read", largest=_LARGEST_NAMES)
    lines = [line.strip() for line in split_lines(text)]
    names = [name for name in lines if name]
    if not names:
        raise UserError(f"{what}{path} is empty; it holds one name per line")
    blank = lines.index("") if "" in lines else len(lines)
    if any(lines[blank:]):
        _log.warning(
            "%sline %d of %s is blank and left out: class %d is '%s'",
            *(what, blank + 1, path, blank, names[blank]),
        )
    return names


def names_beside(folder: Path) -> Path | None:
    """Return the file of class names of the shards in a folder, there or one folder up.

    Splits of a data set share the one above them.
    """
    places = (folder / CLASS_NAMES, folder.resolve().parent / CLASS_NAMES)
    return next((path for path in places if path.is_file()), None)


def given_names(given: str | Sequence[str] | None) -> list[str]:
    """Return the class names that a user gives: in a list, or in a file.

    Raises:
        UserError: a file that cannot be read, or a name that is blank.
    """
    if isinstance(given, str):
        return read_names(given)
    names = [name.strip() for name in given or ()]
    if "" in names:
        raise UserError(f"data.class_names: the name of class {names.index('')} is blank")
    return names


def shown_names(names: Sequence[str]) -> list[str]:
    """Return a caption for each class, no two alike: ``crane (134)`` where two are named so.

    Args:
        names: in the order of the class numbers.
    """
    shown = list(names)
    while len(counts := Counter(shown)) < len(shown):
        shown = [f"{one} ({k})" if counts[one] > 1 else one for k, one in enumerate(shown)]
    return shown


def plain_number(text: str) -> int | None:
    """Return the number that a text is, such as ``7`` or ``7.0``; None where it is none."""
    match = _DIGITS.fullmatch(text.strip())
    return int(match[1]) if match else None


def check_same_order(names: Sequence[str], trained: Any) -> None:
    """Refuse names that number the classes otherwise than a model was trained with.

    Other words for the same numbers are fine: a name that both have must not move.

    Args:
        names: of the data.
        trained: what a checkpoint says of them.

    Raises:
        UserError: a name stands at another place.
    """
    before = trained if isinstance(trained, list) else []
    for number, name in enumerate(names):
        if name in before and before[number : number + 1] != [name]:
            raise UserError(
                f"data.class_names: class {number} is '{name}', which is class "
                f"{before.index(name)} of the checkpoint; give the names in the order that it was "
                "trained with"
            )


def class_number(label: Any, names: Sequence[str] | None) -> int:
    """Return the number of a class.

    Args:
        label: its number, or its name. A text that is a name counts as that, other digits as a
            number.
        names: in the order of the numbers; empty or None takes any number.

    Raises:
        NoClassError: a text that is neither.
        ValueError: what is no label at all, such as 1.5 or -3.
        UserError: a number that no name is for, or a name of several classes.
    """
    names = names or ()
    number = label
    if isinstance(label, str):
        name = label.strip()
        if count := names.count(name):
            if count > 1:
                both = " and ".join(str(k) for k, one in enumerate(names) if one == name)
                raise UserError(f"'{name}' is the name of classes {both}; give the number")
            return names.index(name)
        number = plain_number(name)
        if number is None:
            unknown = f"not in data.class_names{nearest(name, names)}"
            if not names:
                unknown = (
                    "no class number; for names, give data.class_names, a file with one a line"
                )
            raise NoClassError(f"the label '{name}' is {unknown}")
    elif isinstance(label, float) and label.is_integer():
        number = int(label)
    if isinstance(number, bool) or not isinstance(number, int):
        raise ValueError(f"the label {label!r} is neither a class number nor a name")
    if not 0 <= number <= MAX_LABEL:
        beyond = "below 0" if number < 0 else f"above {MAX_LABEL}"
        raise ValueError(
            f"the label {label!r} is neither a class number nor a name: it is {beyond}"
        )
    if names and number >= len(names):
        raise UserError(
            f"label {number}, but there are only {len(names)} class names; add the missing names "
            "(labels count from 0)"
        )
    return number


def class_numbers(labels: Any, names: Sequence[str] | None) -> list[int]:
    """Return the numbers of all classes that a sample is of.

    Args:
        labels: a list of numbers or names, a single one, or several in one text, between which
            stand commas, semicolons, bars or new lines (``dog, cat``; a name may hold such, too).
        names: see `class_number`.

    Raises:
        ValueError, UserError: see `class_number`.
    """
    if isinstance(labels, str):
        labels = _split(labels, set(names or ()))
    listed = labels if isinstance(labels, list) else [labels]
    return [class_number(label, names) for label in listed]


def _split(text: str, known: set[str]) -> list[str]:
    """Split at separators, but not within a name: the longest that is one is taken."""
    text = text.strip()
    labels = []
    while text:
        ends = [match.start() for match in _BETWEEN.finditer(text)] + [len(text)]
        end = next((e for e in reversed(ends) if text[:e].strip() in known), ends[0])
        labels.append(text[:end].strip())
        text = text[end + 1 :].strip()
    return [label for label in labels if label]
