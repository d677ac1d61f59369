"""Attention of a transformer as an explanation: the last layer's, and rollout through all of them.

Shapes as in `mmlight.batch`: B samples, L tokens; H heads.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmlight.encoders.canvas import TokenGrid
from mmlight.encoders.encoder import Encoder, eval_mode
from mmlight.errors import UserError


@dataclass(frozen=True)
class Attention:
    """The attention of every layer.

    Attributes:
        layers: by layer, (B, H, L, L) weights from each token (rows) to each other; rows sum to 1.
        pooling_BL: how the pooled vector reads the last layer's tokens, summing to 1.
        grid: where the tokens lie.
    """

    layers: tuple[Tensor, ...]
    pooling_BL: Tensor
    grid: TokenGrid


@torch.no_grad()
def attention_maps(encoder: Encoder, inputs: Any) -> Attention:
    """Return the attention weights of a transformer, in evaluation mode.

    Args:
        encoder: a ViT of timm on pixels or spectrograms, a text or audio model of transformers, or
            another that has `explicit_attention`.
        inputs: `Images`, `Text` or `Audio`.

    Raises:
        UserError: a network without attention between all of its tokens (a CNN, Swin, CLAP).
    """
    grid = encoder.token_grid(encoder.read_canvas(inputs))
    instead = "between all of its tokens; use grad_cam or integrated_gradients"
    if grid is None:
        raise UserError(f"explain: a {encoder.network_name} has no attention {instead}")
    with eval_mode(encoder), encoder.explicit_attention() as layers:
        encoded = encoder(inputs, tokens=True)
    if not layers or layers[0].shape[-1] != grid.num_tokens:
        raise UserError(f"explain: a {encoder.network_name} gives no attention {instead}")
    mask_BL = encoded.mask_BL
    assert mask_BL is not None
    ahead_BP = mask_BL.new_zeros(len(mask_BL), grid.prefix)
    weight_BL = encoder.pooling_weights(torch.cat([ahead_BP, mask_BL], 1))
    return Attention(tuple(layers), weight_BL / weight_BL.sum(1, keepdim=True), grid)


def rollout(attention: Attention) -> Tensor:
    """Return how much of each input token reaches the pooled vector: (B, L), summing to 1.

    Attention rollout (arXiv 2005.00928, section 3): the product over layers of half the attention,
    averaged over heads, and half the identity, which stands for the residual connection.

    Args:
        attention: all layers of a transformer.
    """
    flow_BLL: Tensor | None = None
    for weights_BHLL in attention.layers:
        mean_BLL = weights_BHLL.float().mean(1)
        mixed_BLL = (mean_BLL + torch.eye(mean_BLL.shape[1], device=mean_BLL.device)) / 2
        mixed_BLL = mixed_BLL / mixed_BLL.sum(-1, keepdim=True)
        flow_BLL = mixed_BLL if flow_BLL is None else mixed_BLL @ flow_BLL
    assert flow_BLL is not None
    return torch.einsum("bl,blm->bm", attention.pooling_BL, flow_BLL)


def last_attention(attention: Attention) -> Tensor:
    """Return how the pooled tokens read the last layer's, averaged over heads: (B, L)."""
    mean_BLL = attention.layers[-1].float().mean(1)
    return torch.einsum("bl,blm->bm", attention.pooling_BL, mean_BLL)


def pooled_by_head(attention: Attention) -> Tensor:
    """Return how the pooled tokens read each layer's, head by head: (layers, B, H, L)."""
    return torch.stack(
        [
            torch.einsum("bl,bhlm->bhm", attention.pooling_BL, layer.float())
            for layer in attention.layers
        ]
    )
