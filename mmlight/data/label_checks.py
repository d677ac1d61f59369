"""Labels of a whole data set, read without decoding: checked against the classes, and counted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmlight.class_names import NoClassError, class_numbers
from mmlight.data.checks import MAX_LOOKED_AT, read_spread
from mmlight.data.decode.boxes import box_class
from mmlight.data.labels import Labels
from mmlight.data.members import Contents, Members, parse_source
from mmlight.data.sample import SampleSet
from mmlight.data.scan import scan
from mmlight.data.shards.corpus import Corpus
from mmlight.errors import UserError


@dataclass(frozen=True)
class SeenLabels:
    """The lowest and the highest label of a data set, -1 without any, and which sample has that."""

    lowest: int = -1
    highest: int = -1
    sample: str = ""

    def check(self, num_classes: int, *, where: str, noun: str = "classes") -> None:
        """Refuse a label that is beyond the classes, or of what else there are too few.

        Raises:
            UserError: there is one.
        """
        if self.highest < num_classes:
            return
        from_one = self.lowest > 0 and self.highest == num_classes
        hint = "labels count from 0" + ("; these seem to count from 1" if from_one else "")
        raise UserError(
            f"{where} has label {self.highest}, but there are only {num_classes} {noun} ({hint}): "
            f"{self.sample}"
        )


def check_labels(
    corpus: Corpus, source: str, labels: Labels, *, where: str, max_bad_fraction: float
) -> SeenLabels:
    """Refuse labels without a class, as far as up to 20,000 samples show them.

    One that is met later stops the run then. Texts that name no class are bad samples, of which
    there may be `max_bad_fraction`.

    Raises:
        UserError: as above.
    """
    unsealed = replace(labels, sealed=False)
    first: dict[int, int] = {}
    unnamed: list[tuple[int, str]] = []
    for number, contents in read_spread(corpus, [source]):
        try:
            first.setdefault(unsealed.of(corpus, number, contents, source), number)
        except UserError as error:
            raise UserError(f"{where}: {corpus.named(number)}: {error}") from error
        except NoClassError as error:
            unnamed.append((number, str(error)))
        except ValueError:
            continue  # a bad sample: it is counted when its turn comes
    looked_at = min(len(corpus), MAX_LOOKED_AT)
    if len(unnamed) > max_bad_fraction * looked_at:
        number, reason = unnamed[0]
        raise UserError(
            f"{where}: {len(unnamed)} of {looked_at} samples have a label that is no class; "
            f"{corpus.named(number)}: {reason}"
        )
    first.pop(-1, None)
    if not first:
        return SeenLabels()
    highest = max(first)
    seen = SeenLabels(min(first), highest, corpus.named(first[highest]))
    if labels.sealed:
        seen.check(len(labels.names), where=where, noun="class names")
    return seen


def check_label_lists(
    parts: Sequence[tuple[Corpus, Members]],
    name: str,
    *,
    names: Sequence[str],
    num_classes: int,
    where: str,
) -> None:
    """Refuse lists of labels in a field that name no class, as far as up to 20,000 samples show.

    Raises:
        UserError: a label that is no class; or zeros and ones for all classes.
    """
    where = f"{where}, field '{name}'"
    lists: list[Any] = []
    for corpus, members in parts:
        if (source := members.fields.get(name)) is None:
            continue
        for number, value in _values(corpus, source):
            lists.append(value)
            try:
                highest = max(class_numbers(value, names), default=-1)
            except ValueError as error:
                raise UserError(f"{where}: {corpus.named(number)}: {error}") from error
            seen = SeenLabels(highest=highest, sample=corpus.named(number))
            seen.check(num_classes, where=f"{where}:")
    is_mask = [isinstance(one, list) and len(one) == num_classes > 2 for one in lists]
    if len(lists) > 1 and all(is_mask) and all(x in (0, 1) for one in lists for x in one):
        raise UserError(
            f"{where}: every list holds {num_classes} zeros and ones, one for each class; give the "
            "numbers or the names of a sample's classes instead"
        )


def check_box_labels(
    corpus: Corpus, source: str, labels: Labels, *, class_names: Sequence[str] | None, where: str
) -> None:
    """Refuse boxes without a class name, as far as up to 20,000 samples show them.

    Raises:
        UserError: as above.
    """
    seen: dict[str | int, int] = {}
    for number, value in _values(corpus, source):
        try:
            listed = labels.of_boxes(corpus, number, value)
        except UserError as error:
            raise UserError(f"{where}: {corpus.named(number)}: {error}") from error
        for label in listed if isinstance(listed, list) else ():
            if isinstance(label, str | int):
                seen.setdefault(label, number)
    for label in sorted(seen, key=str):
        try:
            box_class(label, class_names)
        except UserError as error:
            raise UserError(f"{where}: {corpus.named(seen[label])}: {error}") from error
        except ValueError:
            continue  # a bad sample, too


def _values(corpus: Corpus, source: str) -> Iterator[tuple[int, Any]]:
    """Yield the number of a sample and what `source` names, see `read_spread`."""
    for number, contents in read_spread(corpus, [source]):
        try:
            value = contents.value(source)
        except ValueError:
            continue  # a bad sample: it is counted when its turn comes
        if value is not None:
            yield number, value


def label_counts(
    samples: SampleSet,
    num_classes: int,
    *,
    field: str | None,
    class_names: list[str],
    labels: Labels,
) -> list[int]:
    """Return the number of samples with each label; reads the labels of all samples once.

    Samples whose label cannot be read are left out. A `field` may list several labels of a sample,
    numbers or names; None counts the members' `label`.

    Raises:
        UserError: a label that is beyond the classes.
    """

    def look(number: int) -> set[int]:
        members = samples.members(number)
        source = members.fields.get(field) if field is not None else members.label
        if source is None:
            return set()
        try:
            contents = Contents(samples.corpus.read(number, [parse_source(source)[0]]))
            if field is None:
                return {labels.of(samples.corpus, number, contents, source)}
            value = contents.value(source)
            return set() if value is None else set(class_numbers(value, class_names))
        except UserError as error:
            raise UserError(f"{samples.corpus.named(number)}: {error}") from error
        except (OSError, ValueError):
            return set()  # a bad sample: it is counted when its turn comes

    counts = [0] * num_classes
    for number, found in scan(range(len(samples)), look, what="Counting labels", shown=False):
        for label in found:
            if label >= num_classes:
                raise UserError(
                    f"{samples.corpus.named(number)} has label {label}, but there are "
                    f"{num_classes} classes (labels count from 0)"
                )
            if label >= 0:
                counts[label] += 1
    return counts


def field_values(samples: SampleSet, field: str, *, most: int) -> Iterator[Any]:
    """Yield a field of at most so many samples, evenly spread; those without it are left out."""
    for number in range(0, len(samples), max(1, -(-len(samples) // most))):
        source = samples.members(number).fields.get(field)
        if source is None:
            continue
        try:
            value = Contents(samples.corpus.read(number, [parse_source(source)[0]])).value(source)
        except (OSError, ValueError):
            continue  # a bad sample: it is counted when its turn comes
        if value is not None:
            yield value
