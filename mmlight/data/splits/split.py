"""One split of a data set: its shards, and which of their samples belong to it."""

import logging
from dataclasses import dataclass

import numpy as np

from mmlight.data.labels.labels import Labels
from mmlight.data.members import Members
from mmlight.data.shards.corpus import Corpus
from mmlight.data.shards.index import load_or_build
from mmlight.data.shards.index_file import ShardIndex
from mmlight.data.shards.paths import expand
from mmlight.data.splits.subset import choose, classes_left_out
from mmlight.errors import UserError

_log = logging.getLogger(__name__)


@dataclass
class Split:
    """Shards of one split, or of one source of a mixture.

    Attributes:
        shards: a glob, a brace pattern, a folder, a ``.txt`` list of shards, or a list of these.
        members: how these shards' members are mapped; None takes the data module's.
        weight: this source's share of a mixture; only the ratios count.
        only: keeps samples by their metadata: ``{json:speaker: [ann, bob]}``; labels by number or
            name. With several
            sources, samples that fit all of them. ``fold:5`` is a sample's number (0 to 4) when
            all samples are dealt into five equal parts, label by label.
        without: drops samples in the same way; with several sources, samples that fit any.
        per_class: keeps so many samples of each label (after `only` and `without`), drawn by the
            data's seed; more of them include the fewer.
        limit: keeps only the first so many of the samples that are left, in the order of the
            shards.
    """

    shards: str | list[str]
    members: Members | None = None
    weight: float = 1.0
    only: dict[str, list[str | int] | str | int] | None = None
    without: dict[str, list[str | int] | str | int] | None = None
    per_class: int | None = None
    limit: int | None = None


class Indexes:
    """Indexes of the shards that splits name, each looked up once: 20,000 take some seconds."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], list[ShardIndex]] = {}

    def of(self, split: Split) -> list[ShardIndex]:
        """Return the indexes of a split's shards; see `mmlight.data.shards.index.load_or_build`."""
        patterns = (split.shards,) if isinstance(split.shards, str) else tuple(split.shards)
        if patterns not in self._known:
            self._known[patterns] = load_or_build(expand(split.shards))
        return self._known[patterns]


def open_split(
    split: Split,
    *,
    members: Members,
    seed: int,
    where: str,
    labels: Labels | None = None,
    indexes: Indexes | None = None,
    verify: bool = True,
) -> Corpus:
    """Return the samples of a split.

    Args:
        split: its shards and filters.
        members: how its members are mapped.
        seed: of drawn subsets.
        where: its name for messages.
        labels: how labels are read, for filters that name classes; None compares them as written.
        indexes: knows the indexes of shards that were opened before.
        verify: see `Corpus`.

    Raises:
        UserError: no such shard, or a filter that names what is not there.
    """
    corpus = Corpus((indexes or Indexes()).of(split), verify=verify)
    if split.only or split.without or split.per_class is not None:
        corpus = choose(
            corpus,
            only=split.only,
            without=split.without,
            per_class=split.per_class,
            members=members,
            seed=seed,
            where=where,
            labels=labels,
        )
    if split.limit is not None:
        if not 1 <= split.limit <= len(corpus):
            raise UserError(
                f"{where}.limit is {split.limit}; it must be 1 to {len(corpus)} (samples)"
            )
        said = classes_left_out(corpus, split.limit, members=members, where=f"{where}.limit")
        if said is not None:
            _log.warning("%s", said)
        corpus = corpus.subset(np.arange(split.limit))
    return corpus
