"""CIDEr-D: how much a caption says what people say of the same thing (arXiv 1411.5726, section 5).

Written here because the reference implementation comes with Java programs of 100 MB; it is the same
to rounding (tests). Shapes: S samples of the whole set.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

_LONGEST, _SIGMA, _SCALE = 4, 6.0, 10.0
Words = Sequence[str]
_Grams = Counter[tuple[str, ...]]


class _Weighted:
    """The n-grams of one caption, weighted by how rare they are among the captions of the set."""

    def __init__(self, grams: _Grams, document_frequency: _Grams, *, log_count: float) -> None:
        self.weight: list[dict[tuple[str, ...], float]] = [{} for _ in range(_LONGEST)]
        for gram, count in grams.items():
            rarity = log_count - math.log(max(1, document_frequency[gram]))
            self.weight[len(gram) - 1][gram] = count * rarity
        self.norm = [math.sqrt(sum(w * w for w in of_n.values())) for of_n in self.weight]
        # The reference implementation takes the number of pairs for the length.
        self.length = sum(count for gram, count in grams.items() if len(gram) == 2)

    def similarity(self, other: "_Weighted") -> float:
        """Return the mean over n of the clipped cosine, less for captions of other lengths."""
        total = 0.0
        for mine, theirs, norm, other_norm in zip(
            self.weight, other.weight, self.norm, other.norm, strict=True
        ):
            if norm and other_norm:
                shared = mine.keys() & theirs.keys()
                dot = sum(min(mine[gram], theirs[gram]) * theirs[gram] for gram in shared)
                total += dot / (norm * other_norm)
        apart = self.length - other.length
        return total / _LONGEST * math.exp(-(apart**2) / (2 * _SIGMA**2))


def cider_d(found: Sequence[Words], references: Sequence[Sequence[Words]]) -> np.ndarray:
    """Return the score of each caption, (S,) float64, 0 to 10; a set's score is their mean.

    How rare words are is counted in the references of all samples, so that a score depends on the
    set; of a single sample it is 0.

    Args:
        found: words of each caption.
        references: words of what people said, one caption or more for each.
    """
    of_references = [[_grams(words) for words in own] for own in references]
    frequency: _Grams = Counter()
    for own in of_references:
        frequency.update({gram for grams in own for gram in grams})
    log_count = math.log(len(found)) if found else 0.0
    scores = np.zeros(len(found))
    for place, (words, own) in enumerate(zip(found, of_references, strict=True)):
        caption = _Weighted(_grams(words), frequency, log_count=log_count)
        similar = [
            caption.similarity(_Weighted(grams, frequency, log_count=log_count)) for grams in own
        ]
        scores[place] = _SCALE * sum(similar) / len(similar)
    return scores


def _grams(words: Words) -> _Grams:
    return Counter(
        tuple(words[start : start + n])
        for n in range(1, _LONGEST + 1)
        for start in range(len(words) - n + 1)
    )
