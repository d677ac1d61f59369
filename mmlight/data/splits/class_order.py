"""Compares the classes of splits: ``classnames.txt`` beside shards, and names that a user gives.

`mmlight shards pack` numbers the classes that it finds and writes their names beside the shards;
splits of one data set may share the file one folder up. A validation set that lacks a class has
other numbers: labels then go by name.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from mmlight.class_names import names_beside, read_names
from mmlight.data.labels import Labels, OwnNumbers, is_numbered
from mmlight.data.members import Members
from mmlight.data.shards.paths import expand_streams
from mmlight.data.shards.url import is_url
from mmlight.data.splits.split import Split
from mmlight.errors import UserError

_MOST_SHOWN = 5


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
    files: dict[str, str] = {}
    trained: list[str] = []
    split_of: dict[str, str] = {}
    for name in sorted(splits, key=lambda name: name != "train"):
        for split in splits[name]:
            mapped = split.members or members
            if not is_numbered(mapped.label) and mapped.box_labels is None:
                continue
            for folder, file in _name_files(split):
                if folder not in found:
                    files[folder] = file
                    found[folder] = read_names(file, what="")
                    split_of[folder] = name
                    if name == "train":
                        trained.append(folder)
    for folder in trained or found:
        _check_shares_names(found[folder], class_names, files[folder])
    known = _Numbering(class_names)
    numbers = {folder: known.trained(found[folder]) for folder in trained}
    numbers |= {
        folder: known.other(names) for folder, names in found.items() if folder not in numbers
    }
    folders: dict[str, OwnNumbers] = {}
    lines: list[str] = []
    for folder, own_names in found.items():
        own = OwnNumbers(files[folder], own_names, numbers[folder])
        if not own.is_same:
            folders[folder] = own
            lines.append(_renumbered(f"data.{split_of[folder]}", own, known.names))
    return Labels(known.names, folders, sealed=bool(class_names)), lines


def _check_shares_names(own: Sequence[str], names: Sequence[str], file: str) -> None:
    """Refuse the names of other classes; as many may be other words for the same ones."""
    if names and len(own) != len(names) and not set(own) & set(names):
        raise UserError(
            f"{file} has {len(own)} classes, '{own[0]}' and so on, "
            f"none of which is among the {len(names)} of data.class_names, '{names[0]}' and so on; "
            "give data.class_names that hold them, or remove the file if it is not about these "
            "shards"
        )


class _Numbering:
    """Gives names their numbers of training: the user's, or those beside the training shards."""

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


def _name_files(split: Split) -> Iterator[tuple[str, str]]:
    """Yield the folders of a split's shards, with the file of their classes' names."""
    patterns = [split.shards] if isinstance(split.shards, str) else split.shards
    try:
        paths = expand_streams([one for one in patterns if not is_url(one)])
    except UserError:
        return  # whoever opens the split says so
    for folder in dict.fromkeys(path.parent for path in paths if isinstance(path, Path)):
        if (file := names_beside(folder)) is not None:
            yield str(folder), str(file)


def _renumbered(where: str, own: OwnNumbers, names: Sequence[str]) -> str:
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
