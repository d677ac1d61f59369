"""Word n-gram models: counting, smoothing, and the ARPA file that decoders read."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import TextIO

START, END, UNKNOWN = "<s>", "</s>", "<unk>"
Gram = tuple[str, ...]


class NgramModel:
    """An interpolated n-gram model with Witten and Bell's smoothing (1991; Chen and Goodman 1998).

    ``p(w | h) = (c(h w) + t(h) p(w | h')) / (c(h) + t(h))``, where t(h) is the number of different
    words that follow h and h' is h without its first word. Below the single words lies a uniform
    distribution over all words, the end and the unknown word, which so gets a share.

    Args:
        texts: sentences; words are what white space separates.
        order: words of the longest n-gram, 1 or more.
    """

    def __init__(self, texts: Iterable[str], *, order: int) -> None:
        assert order >= 1
        self.order = order
        # For each context, what follows it how often; contexts of 0 to order - 1 words.
        self._followers: list[dict[Gram, Counter[str]]] = [
            defaultdict(Counter) for _ in range(order)
        ]
        self.num_sentences = 0
        for text in texts:
            self.num_sentences += 1
            sentence = [START, *text.split(), END]
            for place in range(1, len(sentence)):
                for length in range(min(order - 1, place) + 1):
                    context = tuple(sentence[place - length : place])
                    self._followers[length][context][sentence[place]] += 1
        seen = {word for counts in self._followers[0].values() for word in counts}
        self.words = sorted(seen - {END, UNKNOWN})
        self._probability: dict[Gram, float] = {}

    def probability(self, word: str, context: Gram) -> float:
        """Return p(word | context); words that were never seen have the unknown word's."""
        if word != END and word not in self._followers[0].get((), {}):
            word = UNKNOWN
        context = context[len(context) - min(len(context), self.order - 1) :]
        return self._of(word, context)

    def _of(self, word: str, context: Gram) -> float:
        gram = (*context, word)
        if gram not in self._probability:
            # Uniform over the words, the end and the unknown word.
            lower = self._of(word, context[1:]) if context else 1 / (len(self.words) + 2)
            counts = self._followers[len(context)].get(context)
            if counts is None:
                return lower
            total, kinds = counts.total(), len(counts)
            self._probability[gram] = (counts[word] + kinds * lower) / (total + kinds)
        return self._probability[gram]

    def backoff(self, context: Gram) -> float:
        """Return the share that a context leaves to words that never followed it."""
        counts = self._followers[len(context)].get(context)
        return 1.0 if counts is None else len(counts) / (counts.total() + len(counts))

    def grams(self, length: int) -> list[Gram]:
        """Return the n-grams of a length that the file holds, sorted."""
        if length == 1:
            return [(UNKNOWN,), (START,), (END,), *((word,) for word in self.words)]
        followers = self._followers[length - 1]
        return sorted((*context, word) for context, counts in followers.items() for word in counts)

    def write(self, file: TextIO) -> None:
        """Write an ARPA file: logarithms to base 10."""
        file.write("\\data\\\n")
        for length in range(1, self.order + 1):
            file.write(f"ngram {length}={len(self.grams(length))}\n")
        for length in range(1, self.order + 1):
            file.write(f"\n\\{length}-grams:\n")
            for gram in self.grams(length):
                # The start is never predicted; by custom its logarithm is -99.
                p = -99.0 if gram == (START,) else math.log10(self._of(gram[-1], gram[:-1]))
                line = f"{p:.7f}\t{' '.join(gram)}"
                if length < self.order and gram[-1] != END:
                    line += f"\t{math.log10(self.backoff(gram)):.7f}"
                file.write(line + "\n")
        file.write("\n\\end\\\n")
