"""What the labels of samples mean: class numbers of training, or names of classes.

`mmlight shards pack` numbers the folders that it finds and writes their names beside the shards, in
``classnames.txt``. A validation set that lacks a class has other numbers: labels then go by name.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmlight.class_names import class_number, read_names
from mmlight.data.corpus import Corpus
from mmlight.data.members import Contents, Members, label_value, parse_source
from mmlight.data.named_labels import CLASS_NAMES
from mmlight.data.shards import expand
from mmlight.data.split import Split
from mmlight.errors import UserError

# The member whose numbers the file is about.
_MEMBER = "cls"
_MOST_SHOWN = 5


@dataclass(frozen=True)
class OwnNumbers:
    """The classes of the shards of one folder.

    Attributes:
        path: their ``classnames.txt``.
        names: what it says.
        numbers: the class number of training for each; None where training has no such class.
    """

    path: str
    names: list[str]
    numbers: list[int | None]

    @property
    def is_same(self) -> bool:
        """Whether numbers mean what they mean in training."""
        return self.numbers == list(range(len(self.numbers)))


@dataclass(frozen=True)
class Labels:
    """Reads labels of samples.

    Attributes:
        names: of the classes, in the order of their numbers; empty where they are not known.
        folders: folders of shards that number classes in another way.
        sealed: labels must be below the number of names.
        lenient: what is no class counts as no label; for predictions.
    """

    names: Sequence[str] = ()
    folders: dict[str, OwnNumbers] = field(default_factory=dict)
    sealed: bool = True
    lenient: bool = False

    def of(self, corpus: Corpus, number: int, contents: Contents, source: str) -> int:
        """Return the class number of a sample, -1 where it has none.

        Args:
            corpus: where the sample is.
            number: its number there.
            contents: its members.
            source: names the label, as in `Members`.

        Raises:
            ValueError: no label at all, or a text that is no name.
            UserError: a number that no class has.
        """
        try:
            value = label_value(contents, source)
            own = self._own(corpus, number) if is_numbered(source) else None
            return -1 if value is None else self._number(value, own)
        except ValueError:
            if self.lenient:
                return -1
            raise

    def of_boxes(self, corpus: Corpus, number: int, labels: Any) -> Any:
        """Return the labels of a sample's boxes, numbers among them as in training.

        Args:
            corpus: where the sample is.
            number: its number there.
            labels: what the sample says; what is no number is left as it is.

        Raises:
            UserError: a number that no class has.
        """
        own = self._own(corpus, number)
        if own is None or not isinstance(labels, list):
            return labels
        return [_theirs(one, own) if type(one) is int and one >= 0 else one for one in labels]

    def _own(self, corpus: Corpus, number: int) -> OwnNumbers | None:
        if not self.folders:
            return None
        return self.folders.get(str(corpus.shards[corpus.locate(number)[0]].path.parent))

    def _number(self, value: Any, own: OwnNumbers | None) -> int:
        if isinstance(value, str):
            return class_number(value, self.names)
        number = class_number(value, self.names if self.sealed and own is None else None)
        return number if own is None else _theirs(number, own)


def _theirs(number: int, own: OwnNumbers) -> int:
    if number >= len(own.names):
        raise UserError(
            f"label {number}, but {own.path} has only {len(own.names)} names; remove the file if "
            "it is not about these shards"
        )
    theirs = own.numbers[number]
    if theirs is None:
        raise UserError(
            f"label {number}, '{own.names[number]}' in {own.path}, which is no class of training; "
            "give all splits the same classes"
        )
    return theirs


def is_numbered(source: str | None) -> bool:
    """Return whether the numbers of a label are those of a ``classnames.txt``."""
    return source is not None and parse_source(source) == (_MEMBER, None)


def labels_of(
    splits: dict[str, list[Split]], members: Members, *, class_names: Sequence[str]
) -> tuple[Labels, list[str]]:
    """Compare the ``classnames.txt`` beside the shards of all splits.

    Args:
        splits: by name; what is numbered otherwise than `train` goes by name.
        members: how members are mapped where a split does not say.
        class_names: names in the order of the numbers; empty where the user gives none.

    Returns:
        How labels are read, and lines that say what goes by name.
    """
    found: dict[str, list[str]] = {}
    trained: list[str] = []
    split_of: dict[str, str] = {}
    for name in sorted(splits, key=lambda name: name != "train"):
        for split in splits[name]:
            mapped = split.members or members
            if not is_numbered(mapped.label) and mapped.box_labels is None:
                continue
            for folder in _folders(split):
                if folder not in found:
                    found[folder] = read_names(os.path.join(folder, CLASS_NAMES), what="")
                    split_of[folder] = name
                    if name == "train":
                        trained.append(folder)
    known = _Numbering(class_names)
    numbers = {folder: known.trained(found[folder]) for folder in trained}
    numbers |= {
        folder: known.other(names) for folder, names in found.items() if folder not in numbers
    }
    folders: dict[str, OwnNumbers] = {}
    lines: list[str] = []
    for folder, own_names in found.items():
        own = OwnNumbers(os.path.join(folder, CLASS_NAMES), own_names, numbers[folder])
        if not own.is_same:
            folders[folder] = own
            lines.append(_told(f"data.{split_of[folder]}", own, known.names))
    return Labels(known.names, folders, sealed=bool(class_names)), lines


class _Numbering:
    """Gives names their numbers of training.

    Args:
        class_names: the user's; empty where the names beside the training shards count.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self._given = bool(class_names)
        self.names = list(class_names)
        self._trained: dict[str, set[int | None]] = {}
        self._files: list[tuple[list[str], list[int | None]]] = []

    def trained(self, own: list[str]) -> list[int | None]:
        """Return the numbers of the names beside shards of training."""
        if not self._given and not self.names:
            self.names = list(own)
        if not self._given:
            self.names += [name for name in own if name not in self.names]
        numbers = _by_name(own, self.names)
        for name, number in zip(own, numbers, strict=True):
            self._trained.setdefault(name, set()).add(number)
        self._files.append((own, numbers))
        return numbers

    def other(self, own: list[str]) -> list[int | None]:
        """Return the numbers of the names beside other shards."""
        for names, numbers in self._files:
            if own == names:
                return numbers
        if not self._trained:
            return _by_name(own, self.names) if self._given else list(range(len(own)))
        return [self._one(name) for name in own]

    def _one(self, name: str) -> int | None:
        numbers = self._trained.get(name, set())
        if not numbers and self.names.count(name) == 1:
            return self.names.index(name)
        return next(iter(numbers)) if len(numbers) == 1 else None


def _by_name(own: Sequence[str], names: Sequence[str]) -> list[int | None]:
    """Return the place of each name among others.

    Where no name that both have stands at another place, the others are other words for the same
    classes (``n01440764`` and ``tench``), and numbers stay.
    """
    place = {name: number for number, name in enumerate(names) if names.count(name) == 1}
    if all(place.get(name, number) == number for number, name in enumerate(own)):
        return list(range(len(own)))
    return [
        number if names[number : number + 1] == [name] else place.get(name)
        for number, name in enumerate(own)
    ]


def _folders(split: Split) -> Iterable[str]:
    """Return the folders of a split's shards that hold a ``classnames.txt``."""
    try:
        paths = expand(split.shards)
    except UserError:
        return []  # whoever opens the split says so
    folders = dict.fromkeys(str(path.parent) for path in paths)
    return [folder for folder in folders if os.path.isfile(os.path.join(folder, CLASS_NAMES))]


def _told(where: str, own: OwnNumbers, names: Sequence[str]) -> str:
    moved = [
        f"{number} is '{name}', there {theirs if theirs is not None else 'no class'}"
        for number, (name, theirs) in enumerate(zip(own.names, own.numbers, strict=True))
        if theirs != number
    ]
    more = f" and {len(moved) - _MOST_SHOWN} more" if len(moved) > _MOST_SHOWN else ""
    return (
        f"{where}: {own.path} numbers classes otherwise than training, so labels go by name "
        f"({'; '.join(moved[:_MOST_SHOWN])}{more})"
    )
