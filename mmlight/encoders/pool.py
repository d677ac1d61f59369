"""Pooling over real tokens only.

Shapes as in `mmlight.batch`: B samples, L tokens or frames, D feature width; H heads.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
