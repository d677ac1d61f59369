"""A convolutional text encoder: token embeddings, convolutions of several widths, maxima.

Shapes: N captions, L tokens, E embedding width, F filters of a width, D feature width.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmlight.batch import Text
from mmlight.encoders.canvas import Canvas, TokenGrid
from mmlight.encoders.depth import cut_into_blocks
from mmlight.encoders.encoder import Block, Encoded, Encoder
from mmlight.encoders.pool import masked_max
from mmlight.errors import UserError


class TextCnn(Encoder):
    """The CNN of Kim (arXiv 1408.5882): what n-grams of several lengths say, wherever they stand.

    For small data without pretrained weights, where a transformer remembers its training set. The
    paper's dropout and its limit on the weights' norm are the head's `dropout` and `max_norm`.

    A caption gives the same features whatever it is batched with.

    Args:
        vocab_size: number of token ids.
        embed_dim: width E of the embeddings.
        widths: how many tokens the filters of each convolution see; ascending.
        filters: number F of filters of each convolution; D is this times their number.
        dropout: rate at which channels of the embeddings are dropped, for a whole caption.
        token_dropout: rate at which tokens are hidden.
        wide: take the maximum also over the places where a filter overlaps an end of the caption by
            as little as one token, L + width - 1 in all, as the paper's code does; else a filter
            stands at each of the L tokens, and sees as much on its left as on its right.

    Attributes:
        vocab_size: number of token ids.

    Raises:
        UserError: settings out of range.
    """

    modality = "text"

    def __init__(
        self,
        *,
        vocab_size: int,
        embed_dim: int = 300,
        widths: Sequence[int] = (3, 4, 5),
        filters: int = 100,
        dropout: float = 0.0,
        token_dropout: float = 0.0,
        wide: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (
            ("vocab_size", vocab_size),
            ("embed_dim", embed_dim),
            ("filters", filters),
            *(("widths", width) for width in widths or [0]),
        ):
            if value < 1:
                raise UserError(f"{name}: {value} must be 1 or more")
        for name, rate in (
            ("dropout", dropout),
            ("token_dropout", token_dropout),
        ):
            if not 0 <= rate < 1:
                raise UserError(f"{name}: {rate} must be at least 0 and below 1")
        self.vocab_size = vocab_size
        self.out_dim = filters * len(widths)
        self.embeddings = nn.Embedding(vocab_size, embed_dim)
        nn.init.uniform_(self.embeddings.weight, -0.25, 0.25)  # as the paper's
        self.convs = nn.ModuleList(
            [
                nn.Conv1d(embed_dim, filters, width, padding=width - 1 if wide else "same")
                for width in widths
            ]
        )
        self.wide = wide
        self.widths = tuple(widths)
        self.channel_dropout = nn.Dropout1d(dropout)
        self.token_dropout = token_dropout
        self._checkpointing = False
        self._init_args = {
            "vocab_size": vocab_size,
            "embed_dim": embed_dim,
            "widths": list(widths),
            "filters": filters,
            "dropout": dropout,
            "token_dropout": token_dropout,
            "wide": wide,
        }

    def forward(self, inputs: Text, *, tokens: bool = False) -> Encoded:
        """Encode captions.

        Args:
            inputs: token ids (N, L), padded on the right, and their mask.
            tokens: also return what the filters see at each token; zeros where there is padding.
        """
        mask_NL = inputs.mask_NL
        embedded_NLE = self.observed(
            self.embeddings(inputs.token_ids_NL), axes=(None, 1), real_B=mask_NL.sum(1)
        )
        keep_NL = mask_NL
        if self.training and self.token_dropout:
            keep_NL = mask_NL & (
                torch.rand(mask_NL.shape, device=mask_NL.device) >= self.token_dropout
            )
        # Padding counts as zeros, as beyond a caption's ends.
        embedded_NEL = (embedded_NLE * keep_NL.unsqueeze(-1)).transpose(1, 2)
        embedded_NEL = self.channel_dropout(embedded_NEL)
        seen = [torch.relu(self._convolve(conv, embedded_NEL)).mT for conv in self.convs]
        pooled_ND = torch.cat(
            [masked_max(map_NLF, self._places(map_NLF, mask_NL)) for map_NLF in seen], 1
        )
        if not tokens:
            return Encoded(pooled_ND)
        length = mask_NL.shape[1]
        firsts = [width // 2 if self.wide else 0 for width in self.widths]
        at_tokens = [m[:, first : first + length] for m, first in zip(seen, firsts, strict=True)]
        features_NLD = torch.cat(at_tokens, 2)
        return Encoded(pooled_ND, features_NLD * mask_NL.unsqueeze(-1), mask_NL)

    def token_grid(self, canvas: Canvas) -> TokenGrid:
        """Return the tokens one after another."""
        return TokenGrid(0, 1, canvas.columns)

    def _places(self, map_NLF: Tensor, mask_NL: Tensor) -> Tensor:
        before = map_NLF.shape[1] - mask_NL.shape[1]
        return F.pad(mask_NL, (before, 0), value=True) if self.wide else mask_NL

    def _convolve(self, conv: nn.Module, embedded_NEL: Tensor) -> Tensor:
        if self._checkpointing and self.training:
            recomputed: Tensor = checkpoint(conv, embedded_NEL, use_reentrant=False)
            return recomputed
        features_NFL: Tensor = conv(embedded_NEL)
        return features_NFL

    def blocks(self) -> list[Block]:
        """Return the embeddings, then the convolutions, which stand side by side."""
        names = [name for name, _ in self.named_parameters()]
        groups = [[n for n in names if n.startswith(p)] for p in ("embeddings.", "convs.")]
        return cut_into_blocks(self, groups)

    def set_checkpointing(self, enabled: bool) -> None:
        """Recompute the convolutions in backward."""
        self._checkpointing = enabled

    def rebuild_args(self) -> dict[str, Any]:
        """Return init arguments that rebuild this architecture."""
        return dict(self._init_args)
