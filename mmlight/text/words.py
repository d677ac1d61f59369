"""Words of a text: how plain text is cut into them, and the sub-words that stand for them.

Places count characters of the text; a span is the place of a word's first character and the place
after its last one.

Sets of tagged words come cut (``in the U.S. , he said .``) by rules of their own, and people's
texts come cut like these, or as prose (``in the U.S., he said.``). Cutting both at punctuation cost
1.5 F1 on a set of news, whose ``U.S.`` became ``U.S``; cutting both at white space gives prose
words such as ``Rome,``. So texts are cut as the words of training were, which the checkpoint keeps.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mmlight.errors import UserError

WordSpan = tuple[int, int]

# Addresses, @names and #tags whole, 's and n't's, U.S. with its last dot, words with a dash or dot
# inside, then any sign.
_WORD = re.compile(
    r"https?://\S+|[@#]\w+|['\u2019]\w+|(?:[^\W\d_]\.){2,}(?!\w)|\w+(?:[-.]\w+)*|[^\w\s]"
)
_CHUNK = re.compile(r"\S+")
_OPENING = "\"'`([{<\u201c\u2018\u00ab"
_CLOSING = ".,;:!?)]}>\"'`\u201d\u2019\u00bb\u2026"
# What stands alone in a text that is cut, and never does in (English) prose.
_ALONE = frozenset(
    {",", ".", ";", ":", "?", "!", "(", ")", "''", "``", '"', "'s", "n't", "\u2019s"}
)
_ATTACHED = re.compile(r"\w[\"')\u201d\u2019]*[,;!?)]+$")
_ENDING = re.compile(r"\w[.!?]+$")
_CLITIC = re.compile(r"['\u2019]\w+|n['\u2019]t")
_MOST_WORDS = 20_000
_MOST_SHAPES = 1_000


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


@dataclass(frozen=True)
class WordRule:
    """What the words of training say about how to cut a text.

    Attributes:
        at_space: punctuation was part of the words (``Rome,``): a word ends at white space only.
        whole: words that cutting at punctuation would break, such as ``U.S.`` and ``Yahoo!``.
        shapes: the like with ``a`` for letters and ``0`` for digits, such as ``a&a`` and ``0/0``.
    """

    at_space: bool = False
    whole: frozenset[str] = frozenset()
    shapes: frozenset[str] = frozenset()

    def cut(self, text: str) -> list[WordSpan]:
        """Return where the words of a text stand."""
        chunks = [match.span() for match in _CHUNK.finditer(text)]
        if self.at_space or self._is_cut([text[start:end] for start, end in chunks]):
            return chunks
        return [span for start, end in chunks for span in self._pieces(text, start, end)]

    def _is_cut(self, chunks: Sequence[str]) -> bool:
        """Whether a text comes in words already: its punctuation stands alone."""
        if not self.whole and not self.shapes:
            return False  # nothing is known that cutting at punctuation would break
        alone = sum(chunk in _ALONE for chunk in chunks)
        attached = sum(bool(_ATTACHED.search(c)) and c not in self.whole for c in chunks)
        return alone > 0 and alone >= attached

    def _pieces(self, text: str, start: int, end: int) -> list[WordSpan]:
        before: list[WordSpan] = []
        after: list[WordSpan] = []
        while start < end and text[start:end] not in self.whole and text[start] in _OPENING:
            if _CLITIC.fullmatch(text, start, end):
                break
            before.append((start, start + 1))
            start += 1
        while start < end and not self._is_word(text[start:end]) and text[end - 1] in _CLOSING:
            run = end - 1
            while run > start and text[run - 1] == text[end - 1]:
                run -= 1
            begin = run if text[run:end] in self.whole else end - 1
            after.append((begin, end))
            end = begin
        if start == end:
            return before + after[::-1]
        core = [(start, end)]
        if not self._is_word(text[start:end]) and _shape(text[start:end]) not in self.shapes:
            core = [(start + a, start + b) for a, b in split_words(text[start:end])]
        return before + core + after[::-1]

    def _is_word(self, chunk: str) -> bool:
        return chunk in self.whole or split_words(chunk) == [(0, len(chunk))]

    def as_plain(self) -> dict[str, Any]:
        """Return plain values that a checkpoint can hold."""
        return {
            "at_space": self.at_space,
            "whole": sorted(self.whole),
            "shapes": sorted(self.shapes),
        }


def learn_rule(sentences: Iterable[Any]) -> WordRule:
    """Learn from the words of training how texts are to be cut.

    Args:
        sentences: the words of each sample; what is no list of texts is passed over.
    """
    count: Counter[str] = Counter()
    alone = attached = 0
    for words in sentences:
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            continue
        count.update(words)
        alone += sum(word in (",", ";", "!", "?") for word in words)
        attached += sum(bool(_ATTACHED.search(word)) for word in words)
        # A full stop that belongs to a word is common within a sentence, but not at its end.
        if words and words[-1] == ".":
            alone += 1
        elif words and _ENDING.search(words[-1]):
            attached += 1
    broken = Counter(
        {word: n for word, n in count.items() if split_words(word) != [(0, len(word))]}
    )
    clitics = sum(n for word, n in count.items() if _CLITIC.fullmatch(word))
    shapes: Counter[str] = Counter()
    for word, n in broken.items():
        if word[-1:] not in _CLOSING and word[:1] not in _OPENING and not _has_space(word):
            shapes[_shape(word)] += n
    return WordRule(
        at_space=attached > alone,
        whole=frozenset(
            word
            for word, n in broken.most_common(_MOST_WORDS)
            # ``Rome.`` once, and ``Rome`` 50 times: a slip of who cut it.
            if not _has_space(word) and n >= count[word.rstrip(_CLOSING)]
        ),
        shapes=frozenset(
            shape
            for shape, n in shapes.most_common(_MOST_SHAPES)
            if not ("'" in shape or "\u2019" in shape) or n > clitics
        ),
    )


def read_rule(kept: Any) -> WordRule:
    """Return the rule that a checkpoint holds, which anyone may have written.

    Args:
        kept: what `WordRule.as_plain` returned; None is the rule that knows no words.

    Raises:
        UserError: values of another form.
    """
    if kept is None:
        return WordRule()
    lists: list[Any] = (
        [kept.get(name) for name in ("whole", "shapes")] if isinstance(kept, Mapping) else []
    )
    if not lists or not all(
        isinstance(one, list) and all(isinstance(word, str) for word in one) for one in lists
    ):
        raise UserError("the checkpoint's rule of how text is cut into words is not mmlight's")
    return WordRule(bool(kept.get("at_space")), frozenset(lists[0]), frozenset(lists[1]))


def _shape(word: str) -> str:
    return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "0", word))


def _has_space(word: str) -> bool:
    return not word or bool(re.search(r"\s", word))
