"""Answers as texts: shown while they grow, and over where a text says so.

Shapes as in `mmlight.decoders.decoder`; N prompts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmlight.decoders.decoder import Decoder
from mmlight.decoders.generate import generate
from mmlight.decoders.sampling import Sampling
from mmlight.decoders.speaker import Prompt
from mmlight.text.tokenizer import Tokenizer

# What stands for bytes that are no character, or not yet one.
_NO_CHARACTER = "\ufffd"
# How an answer begins, with or without a space, depends on no more tokens of its prompt.
_CONTEXT = 8


@dataclass(frozen=True)
class Answer:
    """What was said to a prompt.

    Attributes:
        text: without the text that ended it.
        num_tokens: how many tokens were generated for it.
        log_probability: the sum of log p(token), the end included, by the model's own scores.
        is_ended: whether it ended by itself or by a stop, and was not cut.
    """

    text: str
    num_tokens: int
    log_probability: float
    is_ended: bool


class Growing:
    """The text of an answer that grows token by token.

    Args:
        tokenizer: which the tokens are of.
        before: tokens in front of the answer.
        stop: texts before the first of which it ends.
    """

    def __init__(self, tokenizer: Tokenizer, *, before: Sequence[int], stop: Sequence[str]) -> None:
        self._tokenizer, self._stop = tokenizer, stop
        self._before = list(before)[-_CONTEXT:]
        self._front = tokenizer.decode(self._before)
        self._shown = ""

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, the texts that end it included."""
        whole = self._tokenizer.decode([*self._before, *tokens])
        pairs = enumerate(zip(self._front, whole, strict=False))
        # Of half a character in front, nothing may be left of what it was shown as.
        same = next((place for place, (a, b) in pairs if a != b), len(self._front))
        return whole[same:]

    def is_over(self, tokens: Sequence[int]) -> bool:
        """Return whether a stop is among what these tokens say."""
        text = self.text(tokens) if self._stop else ""
        return any(stop in text for stop in self._stop)

    def ended(self, tokens: Sequence[int]) -> str:
        """Return the text up to the first stop, without half a character at its end."""
        text = self.text(tokens).rstrip(_NO_CHARACTER)
        places = [text.find(stop) for stop in self._stop]
        return text[: min([place for place in places if place >= 0], default=len(text))]

    def more(self, tokens: Sequence[int], *, is_last: bool = False) -> str:
        """Return what can be shown that was not yet: no part of what may become a stop.

        Args:
            tokens: all of the answer so far.
            is_last: whether nothing comes after them.
        """
        text = self.ended(tokens)
        if not is_last and not self.is_over(tokens):
            text = text[: len(text) - max((_overlap(text, stop) for stop in self._stop), default=0)]
        if not text.startswith(self._shown):  # a tokenizer that takes back what it said
            return ""
        new = text[len(self._shown) :]
        self._shown = text
        return new


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of a text may be the beginning of a stop."""
    most = min(len(text), len(stop) - 1)
    return next((n for n in range(most, 0, -1) if text.endswith(stop[:n])), 0)


def token_prompt(
    decoder: Decoder, rows: Sequence[Sequence[int]], *, device: torch.device
) -> Prompt:
    """Return prompts of tokens alone, of one token or more each."""
    width = max(len(row) for row in rows)
    ids = [[*[0] * (width - len(row)), *row] for row in rows]
    real = [[False] * (width - len(row)) + [True] * len(row) for row in rows]
    token_ids_NL = torch.tensor(ids, dtype=torch.int64, device=device)
    return Prompt(decoder.embed(token_ids_NL), torch.tensor(real, device=device))


@torch.no_grad()
def answer(
    decoder: Decoder,
    tokenizer: Tokenizer,
    prompt: Prompt,
    sampling: Sampling,
    *,
    before: Sequence[Sequence[int]] | None = None,
    end_id: int | None = None,
    allowed_V: Tensor | None = None,
    rows: Sequence[int] | None = None,
    on_text: Callable[[int, str], None] | None = None,
) -> list[Answer]:
    """Return the answer to each prompt, as a text; the decoder must be in evaluation mode.

    Args:
        decoder: says what comes next.
        tokenizer: what its tokens are.
        prompt: what stands before.
        sampling: how tokens are chosen, and texts that end an answer.
        before: the tokens right in front of each answer, where these are text; they tell whether
            it begins with a space.
        end_id: the token that ends an answer; by default the tokenizer's.
        allowed_V: bool, tokens that may be said; None is all.
        rows: the number of each prompt, from which its random numbers are made.
        on_text: told each prompt's place and a piece of its answer, as soon as that can be shown;
            all of an answer at once with beams.
    """
    size = len(prompt.embedded_NLD)
    growing = [
        Growing(tokenizer, before=before[i] if before else (), stop=sampling.stop)
        for i in range(size)
    ]
    tokens: list[list[int]] = [[] for _ in range(size)]

    def show(i: int, *, is_last: bool = False) -> None:
        if on_text is not None and (text := growing[i].more(tokens[i], is_last=is_last)):
            on_text(i, text)

    def hear(i: int, token: int) -> None:
        tokens[i].append(token)
        show(i)

    found = generate(
        decoder,
        prompt,
        sampling,
        end_id=tokenizer.end_id if end_id is None else end_id,
        allowed_V=allowed_V,
        rows=rows,
        on_token=hear if on_text is not None and sampling.beams == 1 else None,
        is_over=(lambda i, said: growing[i].is_over(said)) if sampling.stop else None,
    )
    answers: list[Answer] = []
    for i, one in enumerate(found):
        tokens[i] = one.tokens
        show(i, is_last=True)
        text = growing[i].ended(one.tokens)
        answers.append(Answer(text, len(one.tokens), one.log_probability, one.is_ended))
    return answers
