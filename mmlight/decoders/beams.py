"""Beam search: the best answers so far are continued side by side.

It is transformers' search with `early_stopping=False`, token for token, in the same arithmetic.

Shapes as in `mmlight.decoders.decoder`; N prompts that are still searched, W beams of each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmlight.decoders.sampling import Sampling
from mmlight.decoders.speaker import Generated, Guided, Speaker

# What counts as impossible: below any sum of logarithms, and still a number.
_NEVER = -1e9


@dataclass(frozen=True)
class _Whole:
    """An answer that is over, and its log-probability over its length to the penalty's power."""

    score: float
    answer: Generated


@dataclass
class _Search:
    """The search for the answer to one prompt."""

    tokens: list[list[int]]
    total_W: list[float]
    whole: list[_Whole] = field(default_factory=list)

    def best(self) -> Generated:
        """Return the best answer that is over."""
        return self.whole[0].answer


def search(
    speaker: Speaker | Guided,
    sampling: Sampling,
    *,
    size: int,
    end_id: int | None,
    allowed_V: Tensor | None,
    is_over: Callable[[int, Sequence[int]], bool] | None,
) -> list[Generated]:
    """Return the best answer to each prompt; arguments as of `mmlight.decoders.generate.generate`.

    An answer's length counts the token that ends it. A prompt is searched until it has as many
    answers as beams, and none that goes on scores more now than the worst of them.

    Args:
        speaker: at the end of the prompts.
        sampling: how wide and how far to search.
        size: number of prompts.
        end_id: the token that ends an answer.
        allowed_V: tokens that may be said.
        is_over: whether these tokens are a whole answer to the prompt at this place.
    """
    width = sampling.beams
    searches = [_Search([[]] * width, [0.0, *[_NEVER] * (width - 1)]) for _ in range(size)]
    going = list(range(size))
    for place in range(sampling.max_new_tokens):
        logits_RV = speaker.scores()
        if allowed_V is not None:
            logits_RV = logits_RV.masked_fill(~allowed_V, -torch.inf)
        if place == 0:  # all beams of a prompt are the prompt
            logits_RV = logits_RV.repeat_interleave(width, 0)
            rows = torch.arange(size, device=logits_RV.device)
            speaker.select(rows.repeat_interleave(width))
        before_NW = torch.tensor([searches[i].total_W for i in going], device=logits_RV.device)
        total_NWV = logits_RV.log_softmax(1).view(len(going), width, -1) + before_NW[..., None]
        vocab = total_NWV.shape[2]
        top = total_NWV.flatten(1).topk(min(2 * width, width * vocab), 1)
        parents: list[int] = []
        said: list[int] = []
        left: list[int] = []
        is_last = place + 1 == sampling.max_new_tokens
        for row, (i, totals, numbers) in enumerate(
            zip(going, top.values.tolist(), top.indices.tolist(), strict=True)
        ):
            one = searches[i]
            candidates: list[tuple[float, int, int]] = []
            for rank, (total, number) in enumerate(zip(totals, numbers, strict=True)):
                beam, token = divmod(number, vocab)
                tokens = [*one.tokens[beam], token]
                is_end = token == end_id
                is_ended = is_end or (is_over is not None and is_over(i, tokens))
                if not (is_ended or is_last):
                    candidates.append((total, beam, token))
                elif rank < width:  # the others only stand by for those that end
                    score = total / (place + 1) ** sampling.length_penalty
                    answer = Generated(tokens[:-1] if is_end else tokens, total, is_ended)
                    one.whole.append(_Whole(score, answer))
            one.whole = sorted(one.whole, key=lambda whole: -whole.score)[:width]
            if not candidates:
                continue
            while len(candidates) < width:
                candidates.append((_NEVER, *candidates[0][1:]))
            candidates = candidates[:width]
            one.tokens = [[*one.tokens[beam], token] for _, beam, token in candidates]
            one.total_W = [total for total, _, _ in candidates]
            most = one.total_W[0] / (place + 1) ** sampling.length_penalty
            if len(one.whole) == width and most <= one.whole[-1].score:
                continue
            left.append(i)
            parents += [row * width + beam for _, beam, _ in candidates]
            said += [token for _, _, token in candidates]
        if not left:
            break
        going = left
        speaker.select(torch.tensor(parents, device=logits_RV.device))
        speaker.say(torch.tensor(said, device=logits_RV.device))
    return [one.best() for one in searches]
