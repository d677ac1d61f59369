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
        place, _, kind = tag.partition("-")
        if tag != OUTSIDE and (place not in ("B", "I") or not kind):
            raise ValueError(f"'{tag}' is not a BIO tag; these are O, B-type and I-type")
        if place == "I" and kind == last:
            continue
        if last:
            spans.append(Span(last, start, number))
        start, last = number, kind
    return spans


def span_scores(
    words: Sequence[Sequence[str]],
    *,
    gold: Sequence[Sequence[Span]],
    found: Sequence[Sequence[Span]],
    types: Sequence[str],
) -> dict[str, float]:
    """Return ``precision``, ``recall`` and ``f1``, also as ``TYPE/f1`` and ``surface_f1``.

    Over all types together (micro average, the shared task's F1 (entity)); of each type; and over
    distinct wordings with their type (its F1 (surface)), of which those are right that were found,
    with the right type, where they stand. There is no recall of entities that do not occur, and no
    score at all of those that nobody finds either.

    Args:
        words: of each sentence.
        gold: its true entities.
        found: those that the model found; no two of a sentence are equal.
        types: every type of entity.

    Raises:
        KeyError: an entity of another type.
    """
    # Gold, found and right.
    by_type = {kind: [0, 0, 0] for kind in types}
    wordings: tuple[set[tuple[str, ...]], ...] = (set(), set(), set())
    for sentence, true, said in zip(words, gold, found, strict=True):
        for place, spans in enumerate((true, said, set(true) & set(said))):
            for span in spans:
                by_type[span.type][place] += 1
                wordings[place].add((span.type, *sentence[span.start : span.end]))
    counts = {"": [sum(of_place) for of_place in zip(*by_type.values(), strict=True)]}
    counts["surface_"] = [len(distinct) for distinct in wordings]
    counts |= {f"{kind}/": counted for kind, counted in by_type.items()}
    return {f"{of}{name}": v for of, three in counts.items() for name, v in _rates(*three).items()}


def _rates(num_gold: int, num_found: int, num_right: int) -> dict[str, float]:
    rates = {}
    if num_found or num_gold:
        # Where nothing is found of what is there, precision is 0, as for the shared tasks' scripts.
        precision, recall = num_right / (num_found or 1), num_right / (num_gold or 1)
        f1 = 2 * precision * recall / (precision + recall) if num_right else 0.0
        rates = {"precision": precision, "f1": f1}
    if num_gold:
        rates["recall"] = recall
    return rates


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
