"""Attention within captions that lie one after another: flash attention on GPUs, SDPA elsewhere.

With a mask of blocks SDPA computes every pair of places of a row and drops those across captions.
Flash attention's kernel for sequences of different lengths computes only the pairs within them,
and needs no mask. It takes half precision and no dropout; whatever it does not take goes to SDPA
with the mask, which gives the same up to rounding.

Shapes: R rows of C places, H heads of d features; S sequences (captions and free ends of rows).
"""

from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_HALF = (torch.float16, torch.bfloat16)
_NAMES = {False: "mmlight_packed", True: "mmlight_packed_causal"}


def use_packed_attention(model: Any, *, causal: bool) -> None:
    """Have a model's layers look for sequences among their arguments; without them it is SDPA.

    It stays so: checkpointed layers run again in backward and must find the same function.

    Args:
        model: a model of transformers whose attention is ``sdpa``.
        causal: whether its tokens see only those before them.
    """
    model.set_attn_implementation(_NAMES[causal])


def is_fused(model: Any) -> bool:
    """Say whether a model computes attention by SDPA or as here, which take a mask of blocks."""
    return model.config._attn_implementation in ("sdpa", *_NAMES.values())


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    causal: bool,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int = 0,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers' attention functions do.

    Args:
        module: the layer.
        query: (R, H, C, d).
        key: the same, maybe with fewer heads, each for several of the query's.
        value: as `key`.
        attention_mask: (R, 1, C, C), True where a place sees another; used by SDPA.
        causal: whether tokens see only those before them.
        dropout: rate of dropout on the weights.
        scaling: factor of the scores.
        cu_seq_lens_q: int32 (S + 1,), where each sequence begins in the rows one after another,
            and where the last one ends; None where the batch is not packed.
        max_length_q: length of the longest sequence.
        more: what SDPA may take besides.

    Returns:
        The values (R, C, H, d), and no weights.
    """
    if cu_seq_lens_q is None or not fits_flash(query, key, value, dropout=dropout):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
    from torch.nn.attention import varlen

    num_rows, num_heads, width, head_dim = query.shape
    groups = num_heads // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    size = (num_rows * width, num_heads, head_dim)
    attended: Any = varlen.varlen_attn(
        query.transpose(1, 2).reshape(size),
        key.transpose(1, 2).reshape(size),
        value.transpose(1, 2).reshape(size),
        cu_seq_lens_q,
        cu_seq_lens_q,
        max_length_q,
        max_length_q,
        scale=scaling,
        window_size=(-1, 0) if causal else (-1, -1),
    )
    return attended.view(num_rows, width, num_heads, head_dim), None


def fits_flash(query: Tensor, key: Tensor, value: Tensor, *, dropout: float) -> bool:
    """Say whether flash attention's kernel for sequences takes these."""
    return (
        query.is_cuda
        and query.dtype in _HALF
        and query.dtype == key.dtype == value.dtype
        and dropout == 0
        and query.shape[-1] == value.shape[-1] <= 256
        and query.shape[-1] % 8 == 0
        and _has_flash(query.device)
    )


@lru_cache
def _has_flash(device: torch.device) -> bool:
    return torch.backends.cuda.is_flash_attention_available() and (
        torch.cuda.get_device_capability(device) >= (8, 0)
    )


# At import, so that a copy of such a model in another process finds them.
for _causal, _name in _NAMES.items():
    AttentionInterface.register(_name, partial(packed_attention, causal=_causal))
    AttentionMaskInterface.register(_name, sdpa_mask)
