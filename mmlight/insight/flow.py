"""Attention as an explanation: the last layer's, and rollout through all of them.

Shapes as in `mmlight.batch`: B samples, L tokens; H heads.
"""

import torch
from torch import Tensor

from mmlight.encoders.attention import Attention


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
