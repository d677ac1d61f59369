"""Precision, recall and F1 of named entities, as the W-NUT 2017 shared task scores them.

An entity is right if its first word, its last word and its type are (Derczynski et al. 2017,
ACL W17-4418, and its scorer). Surface forms count each pair of wording and type once, however often
it occurs, so that few frequent names don't decide.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mmlight import comm

OUTSIDE = "O"
# Begin, inside (middle), end (last), a word alone (single, unit, whole).
_PLACES = ("B", "I", "M", "E", "L", "S", "U", "W")


@dataclass(frozen=True)
class Span:
    """An entity, in words of its sentence.

    Attributes:
        type: its type, such as ``person``.
        start: number of its first word.
        end: the word after its last one.
    """

    type: str
    start: int
    end: int


def split_tag(tag: str) -> tuple[str, str]:
    """Split ``B-person`` into ``B`` and ``person``; ``O`` into ``O`` and an empty string.

    Raises:
        ValueError: not a tag of the BIO scheme.
    """
    if tag == OUTSIDE:
        return OUTSIDE, ""
    place, dash, kind = tag.partition("-")
    if place not in ("B", "I") or not dash or not kind:
        raise ValueError(f"'{tag}' is not a BIO tag; these are O, B-type and I-type")
    return place, kind


def as_bio(tags: Sequence[str], types: Sequence[str]) -> list[str]:
    """Return tags of other schemes as BIO tags; one of no known scheme or type stays as it is.

    IOBES, BILOU, BMES and the like say where an entity ends, too. Plain types (``person``), as IOB1
    does, say it only where another type follows: neighbours of one type are one entity.

    Args:
        tags: of one sentence.
        types: every type of entity.
    """
    found: list[str] = []
    ended = ""  # the type of the entity that ended with the word before
    for tag in tags:
        place, dash, kind = ("I", "-", tag) if tag in types else tag.partition("-")
        if not dash or kind not in types or place not in _PLACES:
            found.append(tag)
            ended = ""
            continue
        found.append(f"B-{kind}" if place in "BSUW" or kind == ended else f"I-{kind}")
        ended = kind if place in "ELSUW" else ""
    return found


def spans_of(tags: Sequence[str]) -> list[Span]:
    """Return the entities of a sentence's BIO tags, in order.

    As in conlleval and the shared task's scorer, an ``I-`` that continues no entity of its type
    begins one.

    Raises:
        ValueError: not a tag of the BIO scheme.
    """
    spans: list[Span] = []
    start, last = 0, ""
    for number, tag in enumerate([*tags, OUTSIDE]):
        place, kind = split_tag(tag)
        if place == "I" and kind == last:
            continue
        if last:
            spans.append(Span(last, start, number))
        start, last = number, kind
    return spans


@dataclass(frozen=True)
class Scores:
    """Precision, recall and their harmonic mean; 0 where nothing could be divided by.

    Attributes:
        precision: share of the found entities that are right.
        recall: share of the true entities that were found.
        f1: ``2 precision recall / (precision + recall)``.
        num_gold: true entities.
        num_found: found entities, right or not.
        num_right: found entities that are right.
    """

    precision: float
    recall: float
    f1: float
    num_gold: int
    num_found: int
    num_right: int


def scores(num_gold: int, num_found: int, num_right: int) -> Scores:
    """Return the scores of three counts."""
    precision = num_right / num_found if num_found else 0.0
    recall = num_right / num_gold if num_gold else 0.0
    f1 = 2 * precision * recall / (precision + recall) if num_right else 0.0
    return Scores(precision, recall, f1, num_gold, num_found, num_right)


@dataclass(frozen=True)
class SpanScores:
    """Scores of a whole set.

    Attributes:
        entities: over all types together (micro average): the shared task's F1 (entity).
        surface: over distinct wordings with their type: its F1 (surface). Right are those that were
            found, with the right type, where they stand.
        by_type: for each type.
    """

    entities: Scores
    surface: Scores
    by_type: dict[str, Scores]


class SpanCounts:
    """Counts entities sentence by sentence.

    Args:
        types: every type of entity.
    """

    def __init__(self, types: Sequence[str]) -> None:
        self._types = list(types)
        self._counts = {kind: [0, 0, 0] for kind in types}
        # Gold, found and right wordings: what is kept grows with the number of distinct entities.
        self._surface: tuple[set[tuple[str, ...]], ...] = (set(), set(), set())

    def update(self, words: Sequence[str], *, gold: Sequence[Span], found: Sequence[Span]) -> None:
        """Count one sentence; not a collective.

        Args:
            words: the sentence.
            gold: its true entities.
            found: those that the model found; no two are equal.

        Raises:
            KeyError: an entity of another type.
        """
        right = set(gold) & set(found)
        for place, spans in enumerate((gold, found, right)):
            for span in spans:
                self._counts[span.type][place] += 1
                self._surface[place].add((span.type, *words[span.start : span.end]))

    def compute(self) -> SpanScores:
        """Return the scores over all ranks; every rank calls it, a lone process gets its own."""
        mine_K3 = torch.tensor([self._counts[kind] for kind in self._types], dtype=torch.int64)
        total_K3 = comm.all_reduce_sum(mine_K3)
        everywhere = comm.gather_objects(self._surface)
        surface = [len(set().union(*(part[place] for part in everywhere))) for place in range(3)]
        return SpanScores(
            entities=scores(*total_K3.sum(0).tolist()),
            surface=scores(*surface),
            by_type={
                kind: scores(*counts)
                for kind, counts in zip(self._types, total_K3.tolist(), strict=True)
            },
        )
