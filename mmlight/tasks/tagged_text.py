"""Texts with the tags that a model gives their words, and the scores of these.

Shapes as in `mmlight.batch`; W words of one text, K tags.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from mmlight.metrics.entities import OUTSIDE, Entity, Span, span_scores, spans_of
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


def entity_scores(
    tagged: Sequence[TaggedText],
    *,
    words: Sequence[Sequence[str]],
    gold: Sequence[Sequence[str]],
    losses: Sequence[Sequence[float]],
    types: Sequence[str],
) -> dict[str, float]:
    """Return the scores of texts by name.

    Those of `span_scores`; ``loss``, the mean of -log p(true tag) over the words that tokens stand
    for; ``words_unseen``, the number of words that none stands for.

    Args:
        tagged: what the model says of each text.
        words: the words of each.
        gold: their true tags.
        losses: -log p(true tag) of each word that a token stands for.
        types: every type of entity.
    """
    seen = sum(len(of_text) for of_text in losses)
    result = {"words_unseen": float(sum(text.num_unseen for text in tagged))}
    if seen:
        result["loss"] = sum(sum(of_text) for of_text in losses) / seen
    true, said = [spans_of(tags) for tags in gold], [spans_of(text.tags) for text in tagged]
    return result | span_scores(words, gold=true, found=said, types=types)
