"""Collects what tagging finds in an evaluation set and scores it.

Shapes as in `mmlight.batch`; W words of one text, K tags.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mmlight import comm
from mmlight.metrics.entities import Entity, EntityEvaluation
from mmlight.metrics.span_f1 import OUTSIDE, Scores, Span, SpanCounts, spans_of
from mmlight.text.words import WordSpan


@dataclass(frozen=True)
class TaggedText:
    """The words of one text and what the model says of them.

    Attributes:
        text: the text.
        words: their characters in it.
        tags: the tag of each word; ``O`` for one that no token stands for.
        scores: the probability of each of these tags; 1 where no token stands for the word.
        num_unseen: words that no token stands for: cut off, or dropped by the tokenizer.
    """

    text: str
    words: Sequence[WordSpan]
    tags: Sequence[str]
    scores: Sequence[float]
    num_unseen: int

    def found(self) -> list[Entity]:
        """Return the entities that the tags say."""
        return entities(self.text, self.words, spans_of(self.tags), scores=self.scores)


def read_tags(
    text: str, words: Sequence[WordSpan], first_W: Sequence[int], logits_LK: Tensor, tags: list[str]
) -> TaggedText:
    """Return the likeliest tag of each word, by the first of its tokens.

    Args:
        text: the text.
        words: characters of its words.
        first_W: the place of each word's first token, -1 for none.
        logits_LK: of the text's tokens, float32.
        tags: the K tags.
    """
    probability_L, tag_L = logits_LK.softmax(-1).max(-1)
    probabilities, numbers = probability_L.tolist(), tag_L.tolist()
    return TaggedText(
        text=text,
        words=words,
        tags=[tags[numbers[place]] if place >= 0 else OUTSIDE for place in first_W],
        scores=[probabilities[place] if place >= 0 else 1.0 for place in first_W],
        num_unseen=sum(place < 0 for place in first_W),
    )


def entities(
    text: str,
    words: Sequence[WordSpan],
    spans: Sequence[Span],
    *,
    scores: Sequence[float] | None = None,
) -> list[Entity]:
    """Return entities with their place in the text."""
    result: list[Entity] = []
    for span in spans:
        start, end = words[span.start][0], words[span.end - 1][1]
        score = 1.0 if scores is None else min(scores[span.start : span.end])
        result.append(Entity(span.type, start, end, text[start:end], score))
    return result


@dataclass(frozen=True)
class _Row:
    key: str
    text: str
    gold: list[Entity]
    found: list[Entity]
    loss: float


@dataclass
class TagStore:
    """One rank's evaluated texts, batch by batch.

    Attributes:
        types: every type of entity.
    """

    types: Sequence[str]
    _rows: dict[int, _Row] = field(default_factory=dict)
    _totals: list[float] = field(default_factory=lambda: [0.0, 0, 0])

    def __post_init__(self) -> None:
        """Begin to count."""
        self._counts = SpanCounts(self.types)

    def add(
        self,
        tagged: TaggedText,
        *,
        sample: int,
        key: str,
        words: Sequence[str],
        gold: Sequence[str],
        losses: Sequence[float],
    ) -> None:
        """Count one text.

        Args:
            tagged: what the model says.
            sample: the sample's number in its data set.
            key: the sample's key.
            words: its words.
            gold: their true tags.
            losses: -log p(true tag) of each word that a token stands for.
        """
        spans = spans_of(gold)
        self._counts.update(words, gold=spans, found=spans_of(tagged.tags))
        self._rows[sample] = _Row(
            key=key,
            text=tagged.text,
            gold=entities(tagged.text, tagged.words, spans),
            found=tagged.found(),
            loss=sum(losses) / len(losses) if losses else 0.0,
        )
        self._totals[0] += sum(losses)
        self._totals[1] += len(losses)
        self._totals[2] += tagged.num_unseen

    def compute(self) -> dict[str, float]:
        """Return the scores of all ranks' texts by name; every rank calls it.

        ``precision``, ``recall`` and ``f1`` of entities, also as ``TYPE/f1``; ``surface_...`` of
        distinct wordings; ``loss``, the mean of -log p(true tag) over the words that tokens stand
        for; ``words_unseen``, the number of words that none stands for. There is no recall of
        entities that do not occur, and no score at all of those that nobody finds either.
        """
        counted = self._counts.compute()
        loss, seen, unseen = comm.all_reduce_sum(
            torch.tensor(self._totals, dtype=torch.float64)
        ).tolist()
        result = {"words_unseen": unseen} | ({"loss": loss / seen} if seen else {})
        result |= _named(counted.entities, "") | _named(counted.surface, "surface_")
        for kind, scores in counted.by_type.items():
            result |= _named(scores, f"{kind}/")
        return result

    def evaluation(self, stage: str) -> EntityEvaluation:
        """Return every text of all ranks in order; every rank calls it."""
        rows = {n: row for part in comm.gather_objects(self._rows) for n, row in part.items()}
        samples = sorted(rows)
        ordered = [rows[sample] for sample in samples]
        return EntityEvaluation(
            stage=stage,
            samples_S=np.array(samples, dtype=np.int64),
            keys=[row.key for row in ordered],
            texts=[row.text for row in ordered],
            gold=[row.gold for row in ordered],
            found=[row.found for row in ordered],
            loss_S=np.array([row.loss for row in ordered], dtype=np.float32),
        )


def _named(scores: Scores, prefix: str) -> dict[str, float]:
    values = {}
    if scores.num_found or scores.num_gold:
        # Where nothing is found of what is there, precision is 0, as for the shared tasks' scripts.
        values = {f"{prefix}precision": scores.precision, f"{prefix}f1": scores.f1}
    if scores.num_gold:
        values[f"{prefix}recall"] = scores.recall
    return values
