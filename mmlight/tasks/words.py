"""Words of a text, and the sub-words that stand for them.

Places count characters of the text; a span is the place of a word's first character and the place
after its last one.
"""

import re
from bisect import bisect_right
from collections.abc import Sequence

from torch import Tensor

WordSpan = tuple[int, int]

# Addresses, @names and #tags whole, 's and n't's, U.S. with its last dot, words with a dash or dot
# inside, then any sign.
_WORD = re.compile(
    r"https?://\S+|[@#]\w+|['\u2019]\w+|(?:[^\W\d_]\.){2,}(?!\w)|\w+(?:[-.]\w+)*|[^\w\s]"
)


def split_words(text: str) -> list[WordSpan]:
    """Cut a text at white space and punctuation."""
    return [match.span() for match in _WORD.finditer(text)]


def joined_spans(words: Sequence[str]) -> list[WordSpan]:
    """Return where words stand in ``" ".join(words)``."""
    spans: list[WordSpan] = []
    start = 0
    for word in words:
        spans.append((start, start + len(word)))
        start += len(word) + 1
    return spans


def first_tokens(spans: Sequence[WordSpan], offsets_L2: Tensor) -> list[int]:
    """Return for each word the place of the first token that starts in it; -1 where none does.

    A word has none if it lies beyond the last token (the text was cut), if the tokenizer drops it,
    or if a token that starts in the word before covers it.

    Args:
        spans: words in ascending order that do not overlap.
        offsets_L2: characters of each token, as in `mmlight.batch.Text`.
    """
    starts = [start for start, _ in spans]
    first = [-1] * len(spans)
    for token, (start, end) in enumerate(offsets_L2.tolist()):
        if start == end:
            continue
        word = bisect_right(starts, start) - 1
        if word >= 0 and start < spans[word][1] and first[word] < 0:
            first[word] = token
    return first
