"""Which tokens of a text are hidden in masked language modelling, and by what.

BERT (arXiv 1810.04805), whole words (BERT's release of May 2019), spans (SpanBERT, arXiv
1907.10529). Shapes: T tokens of a text, W words.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from mmlight.data.decode.draw import Draws
from mmlight.errors import UserError
from mmlight.text.tokenizer import Offsets, Tokenizer

Ints = npt.NDArray[np.int64]
Kind = Literal["token", "whole_word", "span"]

_WORDS = re.compile(r"\w+|[^\w\s]")


@dataclass
class Masking:
    """How tokens are hidden; what a model is to say there is what stood there before.

    In training it is drawn anew in each epoch, a function of (seed, epoch, sample); in evaluation
    it is a function of the sample alone. Special tokens stay.

    Attributes:
        kind: ``token``, each by itself; ``whole_word``, all tokens of a word together; ``span``,
            whole words one after another, as many as a geometric distribution says.
        share: of a text's tokens so many are chosen, but one at least.
        masked: of those that are chosen, so many become the mask token.
        random: and so many another token, drawn evenly; the others stay as they are. Tokens of a
            span have one fate.
        span_p: chance that a span ends after each of its words.
        longest_span: most words of a span.
    """

    kind: Kind = "token"
    share: float = 0.15
    masked: float = 0.8
    random: float = 0.1
    span_p: float = 0.2
    longest_span: int = 10

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if self.kind not in get_args(Kind):
            known = ", ".join(get_args(Kind))
            raise UserError(f"text.masking.kind: '{self.kind}'; use one of {known}")
        if not 0 < self.share < 1:
            raise UserError(f"text.masking.share: {self.share} must be above 0 and below 1")
        if min(self.masked, self.random) < 0 or self.masked + self.random > 1:
            raise UserError(
                f"text.masking: masked ({self.masked}) and random ({self.random}) are shares of "
                "the chosen tokens, together at most 1"
            )
        if not 0 < self.span_p <= 1 or self.longest_span < 1:
            raise UserError(
                f"text.masking: span_p ({self.span_p}) must be above 0 and at most 1, and "
                f"longest_span ({self.longest_span}) 1 or more"
            )
        if self.kind != "span" and (self.span_p, self.longest_span) != (0.2, 10):
            raise UserError(
                "text.masking: span_p and longest_span have an effect only on kind: span"
            )

    @property
    def needs_places(self) -> bool:
        """Whether it asks for the characters of each token."""
        return self.kind != "token"


@dataclass(frozen=True)
class MaskedTokens:
    """A text of which some tokens are hidden.

    Attributes:
        ids_T: int64, with masks.
        counted_T: bool, those that were chosen.
    """

    ids_T: Ints
    counted_T: npt.NDArray[np.bool_]


def check_mask_id(tokenizer: Tokenizer) -> int:
    """Return the id of the mask token.

    Raises:
        UserError: the tokenizer has none.
    """
    if tokenizer.mask_id is None:
        raise UserError(
            f"data.text.masking needs a tokenizer with a mask token; this "
            f"{type(tokenizer).__name__} has none (mmlight tokenizer train makes one that has)"
        )
    return tokenizer.mask_id


def mask_tokens(
    ids_T: Ints,
    masking: Masking,
    *,
    tokenizer: Tokenizer,
    draws: Draws,
    text: str = "",
    places: Sequence[Offsets] = (),
) -> MaskedTokens:
    """Hide some tokens of a text.

    Args:
        ids_T: int64.
        masking: how.
        tokenizer: whose ids these are.
        draws: random numbers.
        text: the text; for whole words and spans.
        places: the characters that each token stands for; for whole words and spans.

    Raises:
        UserError: the tokenizer has no mask token.
    """
    mask_id = check_mask_id(tokenizer)
    specials = sorted(special_ids(tokenizer))
    free_T = np.flatnonzero(~np.isin(ids_T, specials))
    counted_T = np.zeros(len(ids_T), np.bool_)
    if not len(free_T):
        return MaskedTokens(ids_T, counted_T)
    budget = max(1, round(masking.share * len(free_T)))
    if masking.kind == "token":
        chosen = free_T[np.argsort(draws.uniforms(len(free_T)), kind="stable")[:budget]]
        groups = list(chosen[:, None])
    else:
        words = _words(free_T, text, places)
        take = _whole_words if masking.kind == "whole_word" else _spans
        groups = take(words, budget, masking=masking, draws=draws)
    chosen = np.concatenate(groups)
    counted_T[chosen] = True
    if masking.kind == "span":
        fate = np.repeat(draws.uniforms(len(groups)), [len(group) for group in groups])
    else:
        fate = draws.uniforms(len(chosen))
    other = (draws.uniforms(len(chosen)) * (tokenizer.vocab_size - len(specials))).astype(np.int64)
    for special in specials:  # ascending: the ids that are left, in order
        other += other >= special
    hidden_T = ids_T.copy()
    is_masked, is_random = fate < masking.masked, fate < masking.masked + masking.random
    hidden_T[chosen] = np.where(is_masked, mask_id, np.where(is_random, other, ids_T[chosen]))
    return MaskedTokens(hidden_T, counted_T)


def special_ids(tokenizer: Tokenizer) -> set[int]:
    """Return the ids that stand for no piece of a text, the unknown one among them."""
    names = ("pad_id", "start_id", "end_id", "unk_id", "mask_id")
    return {i for i in (getattr(tokenizer, name) for name in names) if i is not None}


def _words(free_T: Ints, text: str, places: Sequence[Offsets]) -> list[Ints]:
    """Return the tokens of each word of a text, out of those that may be hidden."""
    of_character = np.full(len(text) + 1, -1)
    for number, found in enumerate(_WORDS.finditer(text)):
        of_character[found.start() : found.end()] = number
    words: list[list[int]] = []
    before = -1
    for token in free_T.tolist():
        start, end = places[token]
        while start < end and text[start].isspace():
            start += 1
        number = int(of_character[start])
        if number >= 0 and number == before:
            words[-1].append(token)
        else:
            words.append([token])
        before = number
    return [np.array(word, np.int64) for word in words]


def _whole_words(words: list[Ints], budget: int, *, masking: Masking, draws: Draws) -> list[Ints]:
    """Take words in a drawn order; those that are too long for what is left are passed over."""
    order = np.argsort(draws.uniforms(len(words)), kind="stable").tolist()
    taken: list[Ints] = []
    left = budget
    for number in order:
        if len(words[number]) <= left:
            taken.append(words[number])
            left -= len(words[number])
        if left == 0:
            break
    return taken or [words[order[0]]]


def _spans(words: list[Ints], budget: int, *, masking: Masking, draws: Draws) -> list[Ints]:
    """Take runs of words, from drawn ones on; a run ends where the next word is taken already."""
    taken: list[Ints] = []
    left, free = budget, list(range(len(words)))
    is_free = [True] * len(words)
    weights = [(1 - masking.span_p) ** more for more in range(masking.longest_span)]
    while left > 0 and free:
        length, first = 1 + draws.choice(weights), free[draws.integer(len(free))]
        span: list[Ints] = []
        for number in range(first, min(first + length, len(words))):
            too_long = len(words[number]) > left and bool(taken or span)
            if not is_free[number] or too_long:
                break
            is_free[number] = False
            span.append(words[number])
            left -= len(words[number])
        if span:
            taken.append(np.concatenate(span))
        else:
            is_free[first] = False  # too long for what is left
        free = [number for number in free if is_free[number]]
    return taken
