"""Labels and fields of a data set, read without decoding its samples."""

from collections.abc import Iterator
from typing import Any

from mmlight.class_names import class_numbers
from mmlight.data.labels.labels import Labels
from mmlight.data.members import Contents, parse_source
from mmlight.data.sample import SampleSet
from mmlight.errors import UserError


def label_counts(
    samples: SampleSet,
    num_classes: int,
    *,
    field: str | None,
    class_names: list[str],
    labels: Labels | None = None,
) -> list[int]:
    """Return the number of samples with each label; reads the labels of all samples once.

    Samples whose label cannot be read are left out.

    Args:
        samples: the data set.
        num_classes: K.
        field: name of a further field that lists a sample's labels (numbers or names); None counts
            the members' `label`.
        class_names: names, for labels that are not numbers.
        labels: how the members' `label` is read; None takes the names alone.

    Raises:
        UserError: a label that is beyond the classes.
    """
    counts = [0] * num_classes
    read = labels or Labels(class_names)
    for number in range(len(samples)):
        members = samples.members(number)
        source = members.fields.get(field) if field is not None else members.label
        if source is None:
            continue
        try:
            raw = samples.corpus.read(number, [parse_source(source)[0]])
        except OSError:
            continue  # a bad sample: it is counted when its turn comes
        try:
            if field is None:
                found = [read.of(samples.corpus, number, Contents(raw), source)]
            else:
                value = Contents(raw).value(source)
                found = [] if value is None else sorted(set(class_numbers(value, class_names)))
        except UserError as error:
            raise UserError(f"{samples.named(number)}: {error}") from error
        except ValueError:
            continue  # a bad sample: it is counted when its turn comes
        for label in found:
            if label >= num_classes:
                raise UserError(
                    f"{samples.named(number)} has label {label}, but there are "
                    f"{num_classes} classes (labels count from 0)"
                )
            if label >= 0:
                counts[label] += 1
    return counts


def field_values(samples: SampleSet, field: str, *, most: int) -> Iterator[Any]:
    """Yield a further field of samples that lie evenly over a data set, those without it left out.

    Args:
        samples: the data set.
        field: the field's name in `Members.fields`.
        most: of so many samples at most.
    """
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
