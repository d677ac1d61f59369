"""One split of a data set: its shards, and which of their samples belong to it."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmlight.data.labels import Labels
from mmlight.data.members import Members
from mmlight.data.shards.corpus import Corpus
from mmlight.data.shards.index import load_or_build
from mmlight.data.shards.index_file import ShardIndex
from mmlight.data.shards.paths import expand
from mmlight.data.splits.metadata import as_text, drawn_order, is_fold, read_values
from mmlight.errors import UserError, nearest

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


Values = Mapping[str, Sequence[str | int] | str | int]

_MAX_SHOWN = 20


def choose(
    corpus: Corpus,
    *,
    only: Values | None,
    without: Values | None,
    per_class: int | None,
    members: Members,
    seed: int,
    where: str,
    labels: Labels | None = None,
) -> Corpus:
    """Return the corpus of the samples that are asked for, in the same order.

    Args:
        corpus: all samples.
        only: values by source (see `read_values`); samples with one of each source's are kept.
        without: likewise; samples with any of these are dropped.
        per_class: of what is left, so many samples of each label, drawn by the seed; a larger
            number adds samples to those of a smaller one.
        members: names the label.
        seed: of the draws.
        where: name of the split for messages.
        labels: how labels are read; None compares them as written.

    Raises:
        UserError: a source or a value that no sample has, too few samples of a label, or nothing
            left.
    """
    only, without = only or {}, without or {}
    _check(only=only, without=without, per_class=per_class, members=members, where=where)
    # Parts that are dealt out last are equal parts of what the others leave.
    for is_dealt in (False, True):
        corpus = _filter(
            corpus,
            only={k: v for k, v in only.items() if is_fold(k) == is_dealt},
            without={k: v for k, v in without.items() if is_fold(k) == is_dealt},
            members=members,
            seed=seed,
            where=where,
            labels=labels,
        )
    if per_class is None:
        return corpus
    few = _few(corpus, per_class, members=members, seed=seed, where=where, labels=labels)
    return corpus.subset(few)


def _filter(
    corpus: Corpus,
    *,
    only: Values,
    without: Values,
    members: Members,
    seed: int,
    where: str,
    labels: Labels | None,
) -> Corpus:
    if not only and not without:
        return corpus
    keep = np.ones(len(corpus), bool)
    sources = list(dict.fromkeys([*only, *without]))
    values = read_values(corpus, sources, members=members, seed=seed, where=where, labels=labels)
    for name, filters, wanted in (("only", only, True), ("without", without, False)):
        for source, given in filters.items():
            read = labels if source == members.label else None
            place = f"{where}.{name}"
            asked = _asked(given, values[source], source=source, where=place, labels=read)
            keep &= np.array([(value in asked) == wanted for value in values[source]])
    if not keep.any():
        raise UserError(f"{where}: only and without together leave no sample")
    return corpus if keep.all() else corpus.subset(np.flatnonzero(keep))


def _check(
    *, only: Values, without: Values, per_class: int | None, members: Members, where: str
) -> None:
    if per_class is not None and per_class < 1:
        raise UserError(f"{where}.per_class is {per_class}; it must be 1 or more")
    if per_class is not None and members.label is None:
        raise UserError(f"{where}.per_class needs data.members.label")
    for name, filters in (("only", only), ("without", without)):
        for source, given in filters.items():
            if isinstance(given, Sequence) and not given:
                raise UserError(f"{where}.{name}: '{source}' has no values; name one or more")


def _asked(
    given: Sequence[str | int] | str | int,
    values: Sequence[str | None],
    *,
    source: str,
    where: str,
    labels: Labels | None,
) -> set[str]:
    listed = [given] if isinstance(given, str | int) else given
    asked = [as_text(value) if labels is None else labels.asked(value) for value in listed]
    there = Counter(value for value in values if value is not None)
    for value in asked:
        if value not in there:
            shown = sorted(there)[:_MAX_SHOWN]
            more = f" and {len(there) - _MAX_SHOWN} more" if len(there) > _MAX_SHOWN else ""
            raise UserError(
                f"{where}: no sample has '{value}' as {source}{nearest(value, there)}; "
                f"there is {', '.join(shown)}{more}"
            )
    return set(asked)


def _few(
    corpus: Corpus, count: int, *, members: Members, seed: int, where: str, labels: Labels | None
) -> np.ndarray:
    assert members.label is not None
    label_of = read_values(
        corpus, [members.label], members=members, seed=seed, where=where, labels=labels
    )[members.label]
    there = Counter(label for label in label_of if label is not None)
    rarest = min(there, key=lambda label: there[label])
    if there[rarest] < count:
        raise UserError(
            f"{where}.per_class is {count}, but label {rarest} has only {there[rarest]} samples; "
            "use at most so many"
        )
    taken: Counter[str] = Counter()
    numbers = []
    for number in drawn_order(corpus, seed=seed):
        label = label_of[number]
        if label is not None and taken[label] < count:
            taken[label] += 1
            numbers.append(number)
    return np.sort(np.array(numbers, np.int64))


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
