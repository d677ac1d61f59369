"""What the labels of samples mean: class numbers of training, or names of classes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mmlight.class_names import class_number, plain_number
from mmlight.data.members import Contents, label_value, parse_source
from mmlight.data.shards.corpus import Corpus
from mmlight.errors import UserError

# The member whose numbers the file is about.
_MEMBER = "cls"


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
        """Return the class number of a sample of a corpus, -1 where it has none.

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

    def text_of(self, corpus: Corpus, number: int, contents: Contents, source: str) -> str | None:
        """Return how a sample's label is compared: its number; as it stands where it has none."""
        try:
            label = self.of(corpus, number, contents, source)
        except ValueError:
            try:
                return str(label_value(contents, source)).strip()
            except ValueError:
                return None
        return None if label < 0 else str(label)

    def asked(self, value: object) -> str:
        """Return how a label that a user asks for is compared, see `text_of`.

        Raises:
            UserError: a name of several classes.
        """
        text = str(value).strip()
        if plain_number(text) is None and text in self.names:
            return str(class_number(text, self.names))
        return text

    def of_boxes(self, corpus: Corpus, number: int, labels: Any) -> Any:
        """Return the labels of a sample's boxes, numbers as in training, others as they are.

        Raises:
            UserError: a number that no class has.
        """
        own = self._own(corpus, number)
        if own is None or not isinstance(labels, list):
            return labels
        return [_theirs(one, own) if type(one) is int and one >= 0 else one for one in labels]

    def _own(self, corpus: Corpus, number: int) -> OwnNumbers | None:
        folder = corpus.folder(number) if self.folders else None
        return self.folders.get(folder) if folder is not None else None

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
