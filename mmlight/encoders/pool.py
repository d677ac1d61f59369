"""Pooling over real tokens only.

Shapes as in `mmlight.batch`: B samples, L tokens or frames, D feature width; H heads.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlight.batch import Pieces

Pooling = Literal["mean", "attention"]


def masked_mean(tokens_BLD: Tensor, mask_BL: Tensor) -> Tensor:
    """Return the mean (B, D) over tokens whose mask is True; zeros where none is.

    Sums in float32, since a sum over many bfloat16 tokens loses the small ones.
    """
    mask_BL1 = mask_BL.unsqueeze(-1)
    total_BD = tokens_BLD.masked_fill(~mask_BL1, 0).sum(1, dtype=torch.float32)
    return (total_BD / mask_BL1.sum(1).clamp(min=1)).to(tokens_BLD.dtype)


def masked_max(tokens_BLD: Tensor, mask_BL: Tensor) -> Tensor:
    """Return the maximum (B, D) over tokens whose mask is True; zeros where none is."""
    filled_BLD = tokens_BLD.masked_fill(~mask_BL.unsqueeze(-1), float("-inf"))
    return filled_BLD.amax(1).masked_fill(~mask_BL.any(1, keepdim=True), 0)


def last_token(tokens_BLD: Tensor, mask_BL: Tensor) -> Tensor:
    """Return the last token (B, D) whose mask is True; the first one where none is."""
    position_L = torch.arange(mask_BL.shape[1], device=mask_BL.device)
    last_B = (position_L * mask_BL).amax(1)
    # Not len(): an export would take the number of samples as a constant.
    return tokens_BLD[torch.arange(last_B.shape[0], device=last_B.device), last_B]


def on_first(mask_BL: Tensor, *, count: int = 1) -> Tensor:
    """Return weights (B, L) of 1 on the first `count` tokens, and of 0 on the others."""
    weight_BL = torch.zeros_like(mask_BL, dtype=torch.float32)
    weight_BL[:, :count] = 1
    return weight_BL


class AttentionPool(nn.Module):
    """Multi-head attention from one learned query to the real tokens.

    Args:
        dim: width of the tokens and of the result.
        num_heads: number of heads; by default one for every 64 features.
    """

    def __init__(self, dim: int, *, num_heads: int | None = None) -> None:
        super().__init__()
        if num_heads is None:
            num_heads = next(h for h in range(max(1, dim // 64), 0, -1) if dim % h == 0)
        if dim % num_heads:
            raise ValueError(f"num_heads: {num_heads} does not divide the width {dim}")
        self.num_heads = num_heads
        self.query_D = nn.Parameter(torch.randn(dim) * dim**-0.5)
        self.norm = nn.LayerNorm(dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, tokens_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """Return the pooled features (B, D); a row without real tokens attends to all of them."""
        size, length, dim = tokens_BLD.shape
        # Softmax over nothing is NaN, and a NaN in a masked row still spoils the gradients.
        mask_BL = mask_BL | ~mask_BL.any(1, keepdim=True)
        key_value = self.key_value(self.norm(tokens_BLD))
        key_BHLd, value_BHLd = key_value.view(
            size, length, 2, self.num_heads, dim // self.num_heads
        ).permute(2, 0, 3, 1, 4)
        query_BH1d = self.query_D.to(key_BHLd.dtype).view(1, self.num_heads, 1, -1)
        pooled_BH1d = F.scaled_dot_product_attention(
            query_BH1d.expand(size, -1, -1, -1),
            key_BHLd,
            value_BHLd,
            attn_mask=mask_BL[:, None, None, :],
        )
        pooled_BD: Tensor = self.out(pooled_BH1d.reshape(size, dim))
        return pooled_BD


class PiecePool(nn.Module):
    """Makes one vector of the pieces of a sample: frames of a video, windows of a long clip.

    Args:
        dim: width of the vectors.
        kind: their mean, weighted as `mmlight.batch.Pieces` says, or an `AttentionPool` over them.
    """

    def __init__(self, dim: int, *, kind: Pooling) -> None:
        super().__init__()
        self.kind = kind
        if kind == "attention":
            self.attention = AttentionPool(dim)

    def forward(self, vector_ND: Tensor, pieces: Pieces | None, size: int) -> Tensor:
        """Return one vector per sample, (B, D).

        Args:
            vector_ND: of each piece.
            pieces: which are of one sample; None where each is a sample's only one.
            size: number of samples, B.
        """
        if self.kind == "mean":
            return vector_ND if pieces is None else _weighted_mean(vector_ND, pieces, size)
        if pieces is None:
            here_B1 = torch.ones_like(vector_ND[:, :1], dtype=torch.bool)
            pooled_BD: Tensor = self.attention(vector_ND.unsqueeze(1), here_B1)
            return pooled_BD
        here_BP = pieces.spread(torch.ones_like(pieces.item_N, dtype=torch.bool), size)
        pooled_BD = self.attention(pieces.spread(vector_ND, size), here_BP)
        return pooled_BD


def _weighted_mean(vector_ND: Tensor, pieces: Pieces, size: int) -> Tensor:
    kind = torch.promote_types(vector_ND.dtype, torch.float32)
    # Not a sum by index, whose order on a GPU is another each time.
    weight_BP1 = pieces.spread(pieces.weight_N.to(kind), size).unsqueeze(-1)
    share_BP1 = weight_BP1 / weight_BP1.sum(1, keepdim=True)
    mean_BD = (pieces.spread(vector_ND.to(kind), size) * share_BP1).sum(1)
    return mean_BD.to(vector_ND.dtype)
