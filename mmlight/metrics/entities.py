"""Precision, recall and F1 of named entities, as the W-NUT 2017 shared task scores them.

An entity is right if its first word, its last word and its type are (Derczynski et al. 2017,
ACL W17-4418, and its scorer). Surface forms count each pair of wording and type once, however often
it occurs, so that few frequent names don't decide.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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
        """Count one sentence.

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
        """Return the scores of all sentences so far."""
        surface = [len(wordings) for wordings in self._surface]
        totals = [sum(counts) for counts in zip(*self._counts.values(), strict=True)]
        return SpanScores(
            entities=scores(*totals),
            surface=scores(*surface),
            by_type={kind: scores(*counts) for kind, counts in self._counts.items()},
        )


@dataclass(frozen=True)
class Entity:
    """A named entity in a text.

    Attributes:
        type: such as ``person``.
        start: place of its first character in the text.
        end: the place after its last character.
        text: its characters.
        score: probability of the least certain of its words' tags; 1 for a true entity.
    """

    type: str
    start: int
    end: int
    text: str
    score: float = 1.0

    def same(self, other: "Entity") -> bool:
        """Return whether both are at one place and of one type."""
        return (self.type, self.start, self.end) == (other.type, other.start, other.end)


@dataclass(frozen=True)
class EntityEvaluation:
    """True and found entities of every evaluated sample, gathered from all ranks.

    S is the number of samples.

    Attributes:
        stage: `val` or `test`.
        samples_S: int64, ascending, the number of each evaluated sample in its data set.
        keys: ``shard-name/sample-key`` of each sample.
        texts: the text of each sample; its words, joined by spaces.
        gold: the true entities of each sample.
        found: the entities that the model found in each sample.
        loss_S: float32, the mean over a sample's words of -log p(its true tag); 0 where no word
            reached the model.
    """

    stage: str
    samples_S: np.ndarray
    keys: list[str]
    texts: list[str]
    gold: list[list[Entity]]
    found: list[list[Entity]]
    loss_S: np.ndarray

    def __post_init__(self) -> None:
        """Check that rows line up; a mismatch is a bug of the caller."""
        lengths = {len(getattr(self, name)) for name in ("keys", "texts", "gold", "found")}
        assert lengths == {len(self.samples_S)} == {len(self.loss_S)}

    def missed(self, row: int) -> list[Entity]:
        """Return the true entities of a row that were not found."""
        return [e for e in self.gold[row] if not any(e.same(other) for other in self.found[row])]

    def wrong(self, row: int) -> list[Entity]:
        """Return the entities found in a row that are not true, the most certain first."""
        wrong = [e for e in self.found[row] if not any(e.same(other) for other in self.gold[row])]
        return sorted(wrong, key=lambda entity: -entity.score)
