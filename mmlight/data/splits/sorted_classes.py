"""Whether the first samples of a set are of fewer classes than the others, as in a sorted table."""

from collections import Counter

import numpy as np

from mmlight.data.members import Members
from mmlight.data.shards.corpus import Corpus
from mmlight.data.splits.metadata import read_values
from mmlight.errors import UserError

# Read evenly of each part: 20,000 a second.
_MOST_TAKEN, _MOST_REST = 5000, 500
# Share of the rest whose classes the first ones lack, beyond what chance explains.
_SHARE = 0.1


def classes_left_out(corpus: Corpus, count: int, *, members: Members, where: str) -> str | None:
    """Say that the first samples lack classes because the set is sorted; None where it is not.

    In a shuffled set some classes may be missing, too: by Good and Turing's estimate about as large
    a share of the rest as the share of the first samples that are alone in their class.

    Args:
        corpus: all samples.
        count: how many of them are taken.
        members: names the label.
        where: the setting, for the message.
    """
    if members.label is None or count >= len(corpus):
        return None
    try:
        taken = _labels(corpus, 0, count, _MOST_TAKEN, members=members)
        rest = _labels(corpus, count, len(corpus), _MOST_REST, members=members)
    except UserError:  # a label that is none: said where it is read
        return None
    if not taken or not rest:
        return None
    unseen = sum(number for label, number in rest.items() if label not in taken) / rest.total()
    alone = sum(number == 1 for number in taken.values()) / taken.total()
    if unseen <= alone + _SHARE:
        return None
    return (
        f"{where}: the first {count:,} of {len(corpus):,} samples are of {len(taken)} classes, "
        f"and {unseen:.0%} of the others of classes that these lack: the shards are sorted by "
        f"class; pack them with --shuffle-seed, or use per_class"
    )


def _labels(corpus: Corpus, first: int, end: int, most: int, *, members: Members) -> Counter[str]:
    assert members.label is not None
    numbers = np.unique(np.linspace(first, end - 1, min(most, end - first)).astype(np.int64))
    part = corpus.subset(numbers)
    values = read_values(part, [members.label], members=members, seed=0, where="")[members.label]
    return Counter(value for value in values if value is not None)
