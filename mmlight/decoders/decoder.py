"""The contract every decoder fulfils: an encoder of text that can also say what comes next.

Shapes as in `mmlight.batch`: N sequences, L places that are new, P places in all (those that a
cache holds come first), M tokens of a memory, D feature width, V tokens of the vocabulary.
"""

from abc import abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from mmlight.batch import Text
from mmlight.encoders.encoder import Encoded, Encoder
from mmlight.encoders.pool import last_token
from mmlight.errors import UserError
from mmlight.modality import Modality


@dataclass(frozen=True)
class Places:
    """Where new places stand in their sequences, and what each of them sees.

    Attributes:
        position_NL: int64, the number of each place in its sequence.
        sees_N1LP: bool, which places, those of the cache first, each new one sees; None: all before
            it and itself. What stands at padding means nothing, but is finite: it sees itself.
    """

    position_NL: Tensor
    sees_N1LP: Tensor | None = None


def plain_places(size: int, length: int, *, past: int = 0, device: torch.device) -> Places:
    """Return the places of sequences without padding, or with padding on the right alone.

    Nothing sees what comes after it, so that padding on the right needs no mask.

    Args:
        size: N.
        length: L.
        past: places that a cache holds.
        device: where they are needed.
    """
    position_L = torch.arange(past, past + length, device=device)
    return Places(position_L.expand(size, -1))


def masked_places(mask_NP: Tensor, *, length: int) -> Places:
    """Return the last places of sequences whose padding stands anywhere, on the left, say.

    Args:
        mask_NP: bool, True for real places, those of a cache included.
        length: L, how many of them are new.
    """
    position_NP = (mask_NP.cumsum(1) - 1).clamp(min=0)
    number_P = torch.arange(mask_NP.shape[1], device=mask_NP.device)
    number_L1 = number_P[-length:, None]
    sees_NLP = ((number_P < number_L1) & mask_NP[:, None]) | (number_P == number_L1)
    return Places(position_NP[:, -length:], sees_NLP[:, None])


def packed_places(text: Text) -> Places:
    """Return the places of texts that share rows (`Text.sample_NL`): none sees another."""
    assert text.sample_NL is not None
    of_NL = text.sample_NL
    length = of_NL.shape[1]
    is_first_NL = torch.ones_like(of_NL, dtype=torch.bool)
    is_first_NL[:, 1:] = of_NL[:, 1:] != of_NL[:, :-1]
    number_L = torch.arange(length, device=of_NL.device)
    start_NL = (number_L * is_first_NL).cummax(1).values
    causal_LL = torch.ones(length, length, dtype=torch.bool, device=of_NL.device).tril()
    sees_NLL = (of_NL[:, :, None] == of_NL[:, None]) & causal_LL
    return Places(number_L - start_NL, sees_NLL[:, None])


@dataclass(frozen=True)
class Memory:
    """What a decoder attends to besides what was said: the tokens of other towers.

    Attributes:
        tokens_NMD: float, as wide as the decoder's `memory_dim`.
        mask_NM: bool, True for real tokens; a row has at least one.
    """

    tokens_NMD: Tensor
    mask_NM: Tensor


class Cache(Protocol):
    """Keys and values of the places that a decoder has seen; `decode` adds to it."""

    @property
    def length(self) -> int:
        """Number of places that it holds."""
        ...

    def select(self, row_K: Tensor) -> None:
        """Keep these rows (int64), in this order; a row may come more than once."""
        ...


class Decoder(Encoder):
    """A causal text model: a text tower whose tokens say what comes next.

    It stands where any text tower stands (``model.towers.text.encoder``): adapters, freezing,
    learning rates, sharding and `from_run` are those of encoders.

    Attributes:
        vocab_size: number of token ids, V.
        memory_dim: width of the memory that it attends to; None where it has no cross-attention.
    """

    modality: ClassVar[Modality] = "text"
    vocab_size: int
    memory_dim: int | None = None
    takes_packed = True

    @abstractmethod
    def embed(self, token_ids_NL: Tensor) -> Tensor:
        """Return the embeddings (N, L, D) of tokens, as `decode` takes them: without positions."""

    @abstractmethod
    def decode(
        self,
        embedded_NLD: Tensor,
        *,
        places: Places | None = None,
        memory: Memory | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Return the last hidden states (N, L, D) of the new places, as `logits` takes them.

        Args:
            embedded_NLD: of the new places; not only of tokens, also of whatever else is as wide.
            places: where they stand; None: one after another behind those of the cache.
            memory: what cross-attention looks at; None where the decoder has none.
            cache: of what came before, which these places are added to; None where nothing did.
        """

    @abstractmethod
    def logits(self, hidden_NLD: Tensor) -> Tensor:
        """Return scores (N, L, V) of what comes next at each place."""

    def explicit_cross_attention(self) -> AbstractContextManager[list[Tensor]]:
        """Collect with which weights (N, H, L, M) places look at the memory, layer by layer.

        Attention is computed step by step within the context (see `Encoder.explicit_attention`).

        Raises:
            UserError: a decoder without cross-attention, or one of which nothing is known.
        """
        raise UserError(f"explain: nothing is known of what a {type(self).__name__} looks at")

    @abstractmethod
    def new_cache(self) -> Cache:
        """Return a cache that holds nothing."""

    def forward(self, inputs: Text, *, tokens: bool = False) -> Encoded:
        """Encode texts; the last token's features stand for the text.

        Args:
            inputs: token ids (N, L), padded on the right, or packed.
            tokens: also return the features of each token.

        Raises:
            UserError: texts longer than the decoder's positions.
        """
        mask_NL = inputs.mask_NL
        self.check_length(mask_NL.shape[1])
        places = packed_places(inputs) if inputs.sample_NL is not None else None
        # Of the class: around a sharded decoder's methods FSDP gives its weights back after each.
        own = type(self)
        embedded_NLD = own.embed(self, inputs.token_ids_NL)
        hidden_NLD = own.decode(self, embedded_NLD, places=places)
        pooled_ND = last_token(hidden_NLD, mask_NL)
        return Encoded(pooled_ND, hidden_NLD, mask_NL) if tokens else Encoded(pooled_ND)

    def check_length(self, length: int) -> None:
        """Raise UserError where sequences have more places than the decoder has positions."""
        if self.max_tokens is not None and length > self.max_tokens:
            raise UserError(
                f"a sequence has {length} places, but the decoder takes at most "
                f"{self.max_tokens}; lower the data's limit on tokens, or raise the decoder's"
            )
