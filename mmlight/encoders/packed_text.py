"""Texts in rows: several one after another, so that little padding is computed.

A token sees its own caption only, and positions begin anew with each caption, so features are
those of padded captions up to rounding.

With a mask of blocks SDPA computes every pair of places of a row and drops those across captions.
Flash attention's kernel for sequences of different lengths computes only the pairs within them,
and needs no mask. It takes half precision and no dropout; whatever it does not take goes to SDPA
with the mask, which gives the same up to rounding.

Shapes as in `mmlight.batch`: N captions, L tokens, D feature width; R rows of C places, T real
tokens, S sequences (captions and free ends of rows), H heads of d features.
"""

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from mmlight.batch import Text
from mmlight.encoders.text_rows import Ints, RowPlan

_HALF = (torch.float16, torch.bfloat16)
_NAMES = {False: "mmlight_packed", True: "mmlight_packed_causal"}


@dataclass(frozen=True)
class PackedText:
    """Token ids in rows, and the way back.

    Attributes:
        token_ids_RC: int64.
        position_ids_RC: int64.
        mask_R1CC: bool, True where a place sees another: within its caption, and in a causal model
            not ahead. Free places see one another, since softmax over nothing is NaN.
        start_S: int32, where each sequence begins in the rows one after another, and R x C.
        longest: places of the longest sequence.
        first_N: number of the place, over all rows, of each caption's first token.
        last_N: of its last token.
    """

    token_ids_RC: Tensor
    position_ids_RC: Tensor
    mask_R1CC: Tensor
    start_S: Tensor
    longest: int
    first_N: Tensor
    last_N: Tensor
    _padded_T: Tensor
    _packed_T: Tensor
    _shape_NL: tuple[int, int]

    def model_args(self) -> dict[str, Any]:
        """Return what a model of transformers takes, whatever computes its attention."""
        args: dict[str, Any] = {
            "input_ids": self.token_ids_RC,
            "position_ids": self.position_ids_RC,
            "attention_mask": self.mask_R1CC,
        }
        if self.token_ids_RC.is_cuda:
            args |= self.sequence_args()
        return args

    def sequence_args(self) -> dict[str, Any]:
        """Return the sequences under the names that transformers gives them."""
        return {
            "cu_seq_lens_q": self.start_S,
            "cu_seq_lens_k": self.start_S,
            "max_length_q": self.longest,
            "max_length_k": self.longest,
        }

    def take(self, hidden_RCD: Tensor, place_N: Tensor) -> Tensor:
        """Return the features (N, D) of one place for each caption."""
        return hidden_RCD.flatten(0, 1).index_select(0, place_N)

    def unpack(self, hidden_RCD: Tensor) -> Tensor:
        """Return features as padded captions (N, L, D), zero where there is padding."""
        real_TD = hidden_RCD.flatten(0, 1).index_select(0, self._packed_T)
        size, length = self._shape_NL
        # Every place is read and written at most once, so no gradient depends on an order.
        tokens_MD = real_TD.new_zeros(size * length, real_TD.shape[1])
        return tokens_MD.index_copy(0, self._padded_T, real_TD).view(size, length, -1)


def pack(
    token_ids_NL: Tensor,
    plan: RowPlan,
    *,
    causal: bool,
    fill_id: int,
    padding_id: int | None,
) -> PackedText:
    """Lay captions out in rows; the host is not made to wait for the device.

    Args:
        token_ids_NL: int64, padded on the right.
        plan: where each caption goes, see `plan_rows`.
        causal: whether tokens see only those before them.
        fill_id: token id of free places.
        padding_id: the id from which a model counts positions of tokens that are not it, as
            RoBERTa does; None where they count from 0.
    """
    size, padded_length = token_ids_NL.shape
    width, num_places = plan.width, plan.num_places
    length_N = plan.length_N
    number_T = np.repeat(np.arange(size), length_N)
    within_T = np.arange(len(number_T)) - (np.cumsum(length_N) - length_N)[number_T]
    first_N = plan.row_N * width + plan.start_N
    packed_T = first_N[number_T] + within_T
    caption_P = np.full(num_places, -1)
    caption_P[packed_T] = number_T
    ends_R = np.arange(plan.num_rows) * width + plan.used_R
    start_S = np.sort(np.concatenate([first_N, ends_R[plan.used_R < width], [num_places]]))
    first, last, padded, packed, caption, start = to_device(
        [
            first_N,
            first_N + length_N - 1,
            number_T * padded_length + within_T,
            packed_T,
            caption_P,
            start_S,
        ],
        token_ids_NL.device,
    )
    if padding_id is None:
        position_T, free_position = padded % padded_length, 0
    else:
        real_NL = token_ids_NL.ne(padding_id)
        position_NL = real_NL.cumsum(1) * real_NL + padding_id
        position_T, free_position = position_NL.flatten().index_select(0, padded), padding_id

    def in_rows(values_T: Tensor, free: int) -> Tensor:
        filled_P = values_T.new_full((num_places,), free)
        return filled_P.index_copy(0, packed, values_T).view(-1, width)

    caption_RC = caption.view(-1, width)
    mask_RCC = caption_RC[:, :, None] == caption_RC[:, None]
    if causal:
        mask_RCC = mask_RCC.tril()
    return PackedText(
        token_ids_RC=in_rows(token_ids_NL.flatten().index_select(0, padded), fill_id),
        position_ids_RC=in_rows(position_T, free_position),
        mask_R1CC=mask_RCC[:, None],
        start_S=start.int(),
        longest=int(np.diff(start_S).max()),
        first_N=first,
        last_N=last,
        _padded_T=padded,
        _packed_T=packed,
        _shape_NL=(size, padded_length),
    )


def args_of_packed(text: Text, *, causal: bool, first: int, window: int | None) -> dict[str, Any]:
    """Return what a model of transformers takes of texts that came in rows (`Text.sample_NL`).

    Nothing here depends on values: neither does the host wait, nor need there be any.

    Args:
        text: the texts.
        causal: whether tokens see only those before them.
        first: the position of a text's first token.
        window: how far a token sees in layers that do not see all of a text (ModernBERT); None
            where there are no such layers.
    """
    assert text.sample_NL is not None
    of_RC = text.sample_NL
    begins_RC = torch.ones_like(of_RC, dtype=torch.bool)
    begins_RC[:, 1:] = of_RC[:, 1:] != of_RC[:, :-1]
    place_C = torch.arange(of_RC.shape[1], device=of_RC.device)
    start_RC = (place_C * begins_RC).cummax(1).values
    mask_RCC = of_RC[:, :, None] == of_RC[:, None]
    if causal:
        mask_RCC = mask_RCC.tril()
    mask_R1CC = mask_RCC[:, None]
    masks: Any = mask_R1CC
    if window is not None:
        near_CC = (place_C[:, None] - place_C).abs() <= window
        masks = {"full_attention": mask_R1CC, "sliding_attention": mask_R1CC & near_CC}
    position_RC = (place_C - start_RC + first).masked_fill(~text.mask_NL, max(first - 1, 0))
    return {
        "input_ids": text.token_ids_NL,
        "position_ids": position_RC,
        "attention_mask": masks,
    }


def to_device(parts: list[Ints], device: torch.device) -> list[Tensor]:
    """Return indices on a device, in one copy that the host does not wait for."""
    joined = torch.from_numpy(np.concatenate(parts))
    if device.type == "cuda":
        joined = joined.pin_memory().to(device, non_blocking=True)
    else:
        joined = joined.to(device)
    return list(joined.split([len(part) for part in parts]))


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


def _packed_attention(
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
    """Attend as transformers' functions do: (R, H, C, d) to (R, C, H, d), without weights."""
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
    AttentionInterface.register(_name, partial(_packed_attention, causal=_causal))
    AttentionMaskInterface.register(_name, sdpa_mask)
