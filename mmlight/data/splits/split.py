"""One split of a data set: its shards, and which of their samples belong to it."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np

from mmlight.data.labels import Labels
from mmlight.data.members import Members
from mmlight.data.shards.cache import ShardCache
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
        shards: a glob, a brace pattern, a folder, a ``.txt`` list of shards, or a list of these;
            local ones, or URLs of http, https, s3, gs and hf (see `data.cache`).
        members: how these shards' members are mapped; None takes the data module's.
        weight: this source's share of a mixture; only the ratios count. Where it changes, by the
            step from which each holds, such as ``{0: 1.0, 10000: 0.5}``: steps are batches, counted
            over all epochs. 0 leaves the source out.
        name: what the log calls this source of a mixture (``train/NAME/loss``); by default
            ``source_0`` and so on.
        tokens_per_sample: where weights are of tokens, how many a sample of this source has; by
            default the mean of its first 1,000 samples.
        only: keeps samples by their metadata: ``{json:speaker: [ann, bob]}``; labels by number or
            name. With several sources, samples that fit all of them. ``fold:5`` is a sample's
            number (0 to 4) when all samples are dealt into five equal parts, label by label.
        without: drops samples in the same way; with several sources, samples that fit any.
        per_class: keeps so many samples of each label (after `only` and `without`), drawn by the
            data's seed; more of them include the fewer.
        limit: keeps only the first so many of the samples that are left, in the order of the
            shards.
    """

    shards: str | list[str]
    members: Members | None = None
    weight: float | dict[int, float] = 1.0
    only: dict[str, list[str | int] | str | int] | None = None
    without: dict[str, list[str | int] | str | int] | None = None
    per_class: int | None = None
    limit: int | None = None
    name: str | None = None
    tokens_per_sample: float | None = None


class Indexes:
    """Indexes of the shards that splits name, each looked up once: 20,000 take some seconds.

    Args:
        cache: where copies of remote shards lie.
    """

    def __init__(self, cache: ShardCache | None = None) -> None:
        self._cache = cache
        self._known: dict[tuple[str, ...], list[ShardIndex]] = {}

    def of(self, split: Split) -> list[ShardIndex]:
        """Return the indexes of a split's shards; see `mmlight.data.shards.index.load_or_build`."""
        patterns = (split.shards,) if isinstance(split.shards, str) else tuple(split.shards)
        if patterns not in self._known:
            self._known[patterns] = load_or_build(expand(split.shards, cache=self._cache))
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
    """Return the samples of a split: of its shards, those that its filters keep.

    Without `labels`, filters that name classes compare them as written.

    Raises:
        UserError: no such shard, or a filter that names what is not there.
    """
    corpus = Corpus((indexes or Indexes()).of(split), verify=verify)
    if split.per_class is not None and split.per_class < 1:
        raise UserError(f"{where}.per_class is {split.per_class}; it must be 1 or more")
    if split.per_class is not None and members.label is None:
        raise UserError(f"{where}.per_class needs data.members.label")
    filters = _filters(split, label=members.label, labels=labels, where=where)
    read = partial(read_values, members=members, seed=seed, where=where, labels=labels)
    # Parts that are dealt out last are equal parts of what the others leave.
    for is_dealt in (False, True):
        mine = [one for one in filters if is_fold(one.source) == is_dealt]
        corpus = _filter(corpus, mine, read, where=where)
    if split.per_class is not None and members.label is not None:
        label_of = read(corpus, [members.label])[members.label]
        order = drawn_order(corpus, seed=seed)
        corpus = corpus.subset(_few(label_of, split.per_class, order, where=where))
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


class _Filter(NamedTuple):
    name: Literal["only", "without"]
    source: str
    asked: list[str]


def _filters(
    split: Split, *, label: str | None, labels: Labels | None, where: str
) -> list[_Filter]:
    found: list[_Filter] = []
    names: tuple[Literal["only", "without"], ...] = ("only", "without")
    for name in names:
        for source, given in (getattr(split, name) or {}).items():
            if isinstance(given, Sequence) and not given:
                raise UserError(f"{where}.{name}: '{source}' has no values; name one or more")
            listed = [given] if isinstance(given, str | int) else given
            text_of = labels.asked if labels is not None and source == label else as_text
            found.append(_Filter(name, source, [text_of(value) for value in listed]))
    return found


_MAX_SHOWN = 20


def _filter(
    corpus: Corpus,
    filters: Sequence[_Filter],
    read: Callable[..., dict[str, list[str | None]]],
    *,
    where: str,
) -> Corpus:
    if not filters:
        return corpus
    keep = np.ones(len(corpus), bool)
    values = read(corpus, list(dict.fromkeys(one.source for one in filters)))
    for name, source, asked in filters:
        there = Counter(value for value in values[source] if value is not None)
        for value in asked:
            if value not in there:
                shown = sorted(there)[:_MAX_SHOWN]
                more = f" and {len(there) - _MAX_SHOWN} more" if len(there) > _MAX_SHOWN else ""
                raise UserError(
                    f"{where}.{name}: no sample has '{value}' as {source}{nearest(value, there)}; "
                    f"there is {', '.join(shown)}{more}"
                )
        wanted = set(asked)
        keep &= np.array([(value in wanted) == (name == "only") for value in values[source]])
    if not keep.any():
        raise UserError(f"{where}: only and without together leave no sample")
    return corpus if keep.all() else corpus.subset(np.flatnonzero(keep))


def _few(
    label_of: Sequence[str | None], count: int, order: Sequence[int], *, where: str
) -> np.ndarray:
    there = Counter(label for label in label_of if label is not None)
    rarest = min(there, key=lambda label: there[label])
    if there[rarest] < count:
        raise UserError(
            f"{where}.per_class is {count}, but label {rarest} has only {there[rarest]} samples; "
            "use at most so many"
        )
    taken: Counter[str] = Counter()
    numbers = []
    for number in order:
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
    """Say that the first `count` lack classes because the set is sorted; None where it is not.

    In a shuffled set some classes may be missing, too: by Good and Turing's estimate about as large
    a share of the rest as the share of the first samples that are alone in their class.
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
