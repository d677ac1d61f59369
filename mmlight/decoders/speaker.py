"""A decoder in the middle of several answers.

Shapes as in `mmlight.decoders.decoder`; N prompts, T tokens said so far.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmlight.decoders.decoder import Decoder, Memory, masked_places


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
    """A decoder in the middle of several answers: its cache and where it stands.

    A sequence that has no position left goes on behind the later half of itself: what came before
    that is forgotten, and the rest is read again. So is a prompt that is longer than the positions.
    """

    def __init__(self, decoder: Decoder, prompt: Prompt) -> None:
        prompt = prompt.left_padded()
        self.decoder, self.memory = decoder, prompt.memory
        self.mask_NP, self._prompt_NLD = prompt.mask_NL, prompt.embedded_NLD
        self._said_NT = torch.zeros_like(self.mask_NP[:, :0], dtype=torch.int64)
        self._longest = int(self.mask_NP.sum(1).max())
        self._begin(self._prompt_NLD)

    def _begin(self, embedded_NLD: Tensor) -> None:
        """Read these places, which are all that there are."""
        self.cache = self.decoder.new_cache()
        self._embedded_NLD = embedded_NLD
        self._is_padded = not bool(self.mask_NP.all())

    def scores(self) -> Tensor:
        """Return the scores (N, V), float32, of what comes next."""
        if self.decoder.max_tokens is not None and self._longest > self.decoder.max_tokens:
            self._forget(self.decoder.max_tokens)
        embedded_NLD = self._embedded_NLD
        places = None
        if self._is_padded:
            places = masked_places(self.mask_NP, length=embedded_NLD.shape[1])
        hidden_NLD = self.decoder.decode(
            embedded_NLD, places=places, memory=self.memory, cache=self.cache
        )
        return self.decoder.logits(hidden_NLD[:, -1:])[:, 0].float()

    def say(self, token_N: Tensor) -> None:
        """Go on behind these tokens."""
        self._said_NT = torch.cat([self._said_NT, token_N[:, None]], 1)
        self._embedded_NLD = self.decoder.embed(token_N[:, None])
        self.mask_NP = torch.cat([self.mask_NP, torch.ones_like(self.mask_NP[:, :1])], 1)
        self._longest += 1

    def select(self, row_K: Tensor) -> None:
        """Keep these sequences, in this order."""
        self.cache.select(row_K)
        self.mask_NP, self._embedded_NLD = self.mask_NP[row_K], self._embedded_NLD[row_K]
        self._prompt_NLD, self._said_NT = self._prompt_NLD[row_K], self._said_NT[row_K]
        if self.memory is not None:
            self.memory = Memory(self.memory.tokens_NMD[row_K], self.memory.mask_NM[row_K])

    def _forget(self, most: int) -> None:
        # Row by row, so that no answer depends on how long the others are.
        keep = max(1, most // 2)
        is_full_N1 = self.mask_NP.sum(1, keepdim=True) > most
        from_end_P = torch.arange(self.mask_NP.shape[1], 0, -1, device=self.mask_NP.device)
        self.mask_NP = self.mask_NP & ~(is_full_N1 & (from_end_P > keep))
        self._longest = int(self.mask_NP.sum(1).max())
        self.mask_NP = self.mask_NP[:, -self._longest :]
        whole_NLD = torch.cat([self._prompt_NLD, self.decoder.embed(self._said_NT)], 1)
        self._begin(whole_NLD[:, -self._longest :])


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
