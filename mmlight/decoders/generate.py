"""Says token by token what comes next, for several prompts at once.

Shapes as in `mmlight.decoders.decoder`; N prompts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmlight.decoders.decoder import Decoder, Memory, masked_places
from mmlight.decoders.sampling import Sampling


@dataclass(frozen=True)
class Prompt:
    """What answers begin behind.

    Attributes:
        embedded_NLD: float, embeddings of tokens and of whatever else was said, as
            `Decoder.decode` takes them; one place or more.
        mask_NL: bool, True for real places; padding may stand anywhere.
        memory: what a decoder with cross-attention looks at.
    """

    embedded_NLD: Tensor
    mask_NL: Tensor
    memory: Memory | None = None

    def left_padded(self) -> "Prompt":
        """Return the same with padding on the left, so that what is new stands at the end."""
        order_NL = self.mask_NL.int().argsort(dim=1, stable=True)
        dim = self.embedded_NLD.shape[-1]
        moved_NLD = self.embedded_NLD.gather(1, order_NL[..., None].expand(-1, -1, dim))
        return Prompt(moved_NLD, self.mask_NL.gather(1, order_NL), self.memory)


@dataclass(frozen=True)
class Generated:
    """An answer.

    Attributes:
        tokens: its token ids, without the one that ends it.
        log_probability: the sum of log p(token), the end included, by the model's own scores.
        is_ended: whether it ended by itself, and not because it was cut.
    """

    tokens: list[int]
    log_probability: float
    is_ended: bool


class Speaker:
    """A decoder in the middle of several answers: its cache and where it stands."""

    def __init__(self, decoder: Decoder, prompt: Prompt) -> None:
        prompt = prompt.left_padded()
        self.decoder, self.memory = decoder, prompt.memory
        self.mask_NP = prompt.mask_NL
        self.cache = decoder.new_cache()
        self._embedded_NLD = prompt.embedded_NLD

    def scores(self) -> Tensor:
        """Return the scores (N, V), float32, of what comes next."""
        embedded_NLD, length = self._embedded_NLD, self._embedded_NLD.shape[1]
        places = masked_places(self.mask_NP, length=length)
        hidden_NLD = self.decoder.decode(
            embedded_NLD, places=places, memory=self.memory, cache=self.cache
        )
        return self.decoder.logits(hidden_NLD[:, -1:])[:, 0].float()

    def say(self, token_N: Tensor) -> None:
        """Go on behind these tokens."""
        self._embedded_NLD = self.decoder.embed(token_N[:, None])
        self.mask_NP = torch.cat([self.mask_NP, torch.ones_like(self.mask_NP[:, :1])], 1)

    def select(self, row_K: Tensor) -> None:
        """Keep these sequences, in this order."""
        self.cache.select(row_K)
        self.mask_NP, self._embedded_NLD = self.mask_NP[row_K], self._embedded_NLD[row_K]
        if self.memory is not None:
            self.memory = Memory(self.memory.tokens_NMD[row_K], self.memory.mask_NM[row_K])


class Guided:
    """Two speakers of one decoder, with and without the prompt: arXiv 2207.12598, eq. 6."""

    def __init__(self, speaker: Speaker, other: Speaker, *, guidance: float) -> None:
        self.speakers, self.guidance = (speaker, other), guidance

    def scores(self) -> Tensor:
        """Return guided scores (N, V)."""
        with_NV, without_NV = (speaker.scores() for speaker in self.speakers)
        return without_NV + self.guidance * (with_NV - without_NV)

    def say(self, token_N: Tensor) -> None:
        """Go on behind these tokens."""
        for speaker in self.speakers:
            speaker.say(token_N)

    def select(self, row_K: Tensor) -> None:
        """Keep these sequences, in this order."""
        for speaker in self.speakers:
            speaker.select(row_K)


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
) -> list[Generated]:
    """Return the answer to each prompt; the decoder must be in evaluation mode.

    Answers do not depend on which prompts are answered together, up to rounding.

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
            ends with it where this returns True.
    """
    size = len(prompt.embedded_NLD)
    numbers = list(range(size) if rows is None else rows)
    speaker: Speaker | Guided
    if sampling.guidance == 1:
        speaker = Speaker(decoder, prompt)
    else:
        assert without_prompt is not None, "guidance compares with no prompt"
        both = (Speaker(decoder, prompt), Speaker(decoder, without_prompt))
        speaker = Guided(*both, guidance=sampling.guidance)
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
        left = [row for row, i in enumerate(going) if not ended[i]]
        if not left or place + 1 == sampling.max_new_tokens:
            break
        speaker.say(token_N)
        if len(left) < len(going):
            speaker.select(torch.tensor(left, device=token_N.device))
            going = [going[row] for row in left]
    return [Generated(*one) for one in zip(tokens, total, ended, strict=True)]
