"""Groups of samples by what they say of themselves: speakers, folds, places."""

from collections import Counter
from collections.abc import Sequence

from mmlight.data.members import Members, parse_source
from mmlight.data.sample import SampleSet
from mmlight.data.splits.metadata import read_values


def carry(all_members: Sequence[Members], source: str) -> str:
    """Have batches carry a further field; return its name. Call it before a split is opened.

    Args:
        all_members: of all splits.
        source: a value such as ``json:speaker``, whose field is then named `speaker`; or the name
            of a field that the members have already.
    """
    if all(source in members.fields for members in all_members):
        return source
    extension, key = parse_source(source)
    name = (key or extension).rpartition(".")[2]
    for members in all_members:
        members.fields[name] = source
    return name


def count_values(samples: SampleSet, field: str, *, seed: int) -> Counter[str]:
    """Return how many samples have each value of a field; each sample is read once.

    Args:
        samples: a split.
        field: a name in the members' `fields`.
        seed: the data's.
    """
    counts: Counter[str] = Counter()
    for corpus, members in samples.parts:
        source = members.fields[field]
        where = f"data.members.fields.{field}"
        values = read_values(corpus, [source], members=members, seed=seed, where=where)
        counts.update(value for value in values[source] if value is not None)
    return counts
