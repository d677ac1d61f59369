"""Says token by token what comes next, for several prompts at once.

Shapes as in `mmlight.decoders.decoder`; N prompts.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mmlight.decoders.beams import search
from mmlight.decoders.decoder import Decoder
from mmlight.decoders.gathered import gathered
from mmlight.decoders.sampling import Sampling
from mmlight.decoders.speaker import Generated, Guided, Prompt, Speaker

__all__ = ["Generated", "Prompt", "generate"]


@torch.no_grad()
def generate(
    decoder: Decoder,
    prompt: Prompt,
    sampling: Sampling,
    *,
    end_id: int | None,
    without_prompt: Prompt | None = None,
    allowed_V: Tensor | None = None,
    rows: Sequence[int] | None = None,
    on_token: Callable[[int, int], bool | None] | None = None,
    is_over: Callable[[int, Sequence[int]], bool] | None = None,
) -> list[Generated]:
    """Return the answer to each prompt; the decoder must be in evaluation mode.

    Answers do not depend on which prompts are answered together, up to rounding. Of a decoder that
    is sharded over ranks every rank calls it, with prompts of its own; each then holds all weights.

    Args:
        decoder: says what comes next.
        prompt: what stands before.
        sampling: how tokens are chosen; its `stop` is the caller's, who knows texts.
        end_id: the token that ends an answer; None ends none.
        without_prompt: what stands before where the prompt was left out in training, for guidance.
        allowed_V: bool, tokens that may be said; None is all.
        rows: the number of each prompt, from which its random numbers are made; by default its
            place.
        on_token: told each prompt's place and its new token, as soon as there is one; the answer
            ends with it where this returns True. Beams, which say nothing before all is said, have
            nobody to tell.
        is_over: whether these tokens, said to the prompt at this place, are a whole answer.
    """
    numbers = list(range(len(prompt.embedded_NLD)) if rows is None else rows)
    with gathered(decoder):
        speaker: Speaker | Guided
        if sampling.guidance == 1:
            speaker = Speaker(decoder, prompt)
        else:
            assert without_prompt is not None, "guidance compares with no prompt"
            both = (Speaker(decoder, prompt), Speaker(decoder, without_prompt))
            speaker = Guided(*both, guidance=sampling.guidance)
        if sampling.beams == 1:
            return _draw(
                speaker,
                sampling,
                numbers=numbers,
                end_id=end_id,
                allowed_V=allowed_V,
                on_token=on_token,
                is_over=is_over,
            )
        assert on_token is None, "nothing is said before all is"
        size = len(numbers)
        return search(
            speaker, sampling, size=size, end_id=end_id, allowed_V=allowed_V, is_over=is_over
        )


def _draw(
    speaker: Speaker | Guided,
    sampling: Sampling,
    *,
    numbers: Sequence[int],
    end_id: int | None,
    allowed_V: Tensor | None,
    on_token: Callable[[int, int], bool | None] | None,
    is_over: Callable[[int, Sequence[int]], bool] | None,
) -> list[Generated]:
    """Choose one token after another."""
    size = len(numbers)
    tokens: list[list[int]] = [[] for _ in range(size)]
    total, ended = [0.0] * size, [False] * size
    going = list(range(size))
    for place in range(sampling.max_new_tokens):
        logits_NV = speaker.scores()
        if allowed_V is not None:
            logits_NV = logits_NV.masked_fill(~allowed_V, -torch.inf)
        token_N = sampling.choose(logits_NV, rows=[numbers[i] for i in going], place=place)
        gained_N = logits_NV.log_softmax(1).gather(1, token_N[:, None])[:, 0]
        for i, token, gained in zip(going, token_N.tolist(), gained_N.tolist(), strict=True):
            total[i] += gained
            if token == end_id:
                ended[i] = True
                continue
            tokens[i].append(token)
            if on_token is not None and on_token(i, token):
                ended[i] = True
            if is_over is not None and is_over(i, tokens[i]):
                ended[i] = True
        left = [row for row, i in enumerate(going) if not ended[i]]
        if not left or place + 1 == sampling.max_new_tokens:
            break
        speaker.say(token_N)
        if len(left) < len(going):
            speaker.select(torch.tensor(left, device=token_N.device))
            going = [going[row] for row in left]
    return [Generated(*one) for one in zip(tokens, total, ended, strict=True)]
