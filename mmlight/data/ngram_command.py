"""``mmlight ngram``: a word n-gram model from the shards' own transcripts.

Counting, smoothing, and the ARPA file that decoders read.
"""

import argparse
import io
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TextIO

from mmlight.data.members import Members
from mmlight.data.tokenizer_command import captions
from mmlight.errors import UserError
from mmlight.files import check_writable, write_text
from mmlight.terminal import say

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


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight ngram``."""
    parser = argparse.ArgumentParser(
        prog="mmlight ngram",
        description="Train a word n-gram model on the transcripts of shards, for LexiconDecoder.",
    )
    parser.add_argument("--shards", nargs="+", required=True, help="as in data.train.shards")
    parser.add_argument(
        "--text", default="txt", help="member with texts: txt or json:captions (default txt)"
    )
    parser.add_argument("--order", type=int, default=3, help="words of the longest n-gram (3)")
    parser.add_argument("--lowercase", action="store_true", help="fold the case of texts first")
    parser.add_argument("--out", type=Path, required=True, help="ARPA file to write")
    args = parser.parse_args(argv)
    if not 2 <= args.order <= 6:
        raise UserError(f"--order {args.order}: must be 2 to 6, which is what KenLM reads")
    check_writable(args.out, option="--out")
    texts = captions(args.shards, Members(text=args.text))
    model = NgramModel(
        ("".join(c.lower() for c in text) if args.lowercase else text for text in texts),
        order=args.order,
    )
    if not model.words:
        raise UserError(f"--text {args.text}: the shards hold no word")
    arpa = io.StringIO()
    model.write(arpa)
    write_text(args.out, arpa.getvalue())
    sizes = ", ".join(f"{len(model.grams(n)):,} {n}-grams" for n in range(1, args.order + 1))
    say(f"{args.out}: {model.num_sentences:,} texts, {len(model.words):,} words, {sizes}")
    return 0
