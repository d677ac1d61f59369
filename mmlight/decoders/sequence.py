"""What a decoder is to say at each place, and a prompt and its answer in one sequence.

Shapes as in `mmlight.decoders.decoder`.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlight.batch import Text


@dataclass(frozen=True)
class NextTokens:
    """What comes next at each place.

    Attributes:
        token_NL: int64; any where not counted.
        counted_NL: bool, places at which the loss counts what comes next.
    """

    token_NL: Tensor
    counted_NL: Tensor


def next_tokens(text: Text) -> NextTokens:
    """Return what comes next at each place of texts, padded on the right or packed.

    Nothing comes after a text's last token; what `Text.counted_NL` leaves out is not counted.
    """
    counts_NL = text.mask_NL if text.counted_NL is None else text.mask_NL & text.counted_NL
    counted_NL = F.pad(counts_NL[:, 1:], (0, 1), value=False)
    if text.sample_NL is not None:
        goes_on_NL = text.sample_NL[:, 1:] == text.sample_NL[:, :-1]
        counted_NL = counted_NL & F.pad(goes_on_NL, (0, 1), value=False)
    return NextTokens(F.pad(text.token_ids_NL[:, 1:], (0, 1)), counted_NL)


def without_ends(text: Text, *, start_id: int | None = None, end_id: int | None = None) -> Text:
    """Return texts without the token that opens them, and without that which closes them.

    Args:
        text: padded on the right, one text a row.
        start_id: the one to take away in front; None takes none.
        end_id: the one to take away behind; None takes none.
    """
    ids_NL, mask_NL = text.token_ids_NL, text.mask_NL
    if end_id is not None:
        last_N1 = (mask_NL.sum(1, keepdim=True) - 1).clamp(min=0)
        is_last_NL = torch.arange(ids_NL.shape[1], device=ids_NL.device) == last_N1
        mask_NL = mask_NL & ~(is_last_NL & (ids_NL == end_id))
    if start_id is not None:
        starts_N1 = ids_NL[:, :1] == start_id
        moved_NL = F.pad(ids_NL[:, 1:], (0, 1))
        moved_mask_NL = F.pad(mask_NL[:, 1:], (0, 1), value=False)
        ids_NL = torch.where(starts_N1, moved_NL, ids_NL)
        mask_NL = torch.where(starts_N1, moved_mask_NL, mask_NL)
    return replace(text, token_ids_NL=ids_NL, mask_NL=mask_NL, offset_NL2=None)


def with_ends(text: Text, *, start_id: int | None = None, end_id: int | None = None) -> Text:
    """Return texts with a token in front that opens them, and one behind that closes them.

    Args:
        text: padded on the right, one text a row.
        start_id: the one to put in front; None puts none.
        end_id: the one to put behind; None puts none.
    """
    ids_NL, mask_NL = text.token_ids_NL, text.mask_NL
    if start_id is not None:
        ids_NL = F.pad(ids_NL, (1, 0), value=start_id)
        mask_NL = F.pad(mask_NL, (1, 0), value=True)
    if end_id is not None:
        length_N1 = mask_NL.sum(1, keepdim=True)
        place_L = torch.arange(ids_NL.shape[1] + 1, device=ids_NL.device)
        ids_NL = torch.where(place_L == length_N1, end_id, F.pad(ids_NL, (0, 1)))
        mask_NL = place_L <= length_N1
    return replace(text, token_ids_NL=ids_NL, mask_NL=mask_NL, offset_NL2=None)


def joined(prompt: Text, answer: Text) -> Text:
    """Return each prompt and its answer in one row, of which the answer counts.

    Args:
        prompt: N texts, padded on the right; without a token that closes them.
        answer: as many; without a token that opens them.
    """
    prompt_N1 = prompt.mask_NL.sum(1, keepdim=True)
    answer_N1 = answer.mask_NL.sum(1, keepdim=True)
    width = prompt.mask_NL.shape[1] + answer.mask_NL.shape[1]
    place_1L = torch.arange(width, device=prompt.mask_NL.device)[None]
    of_answer_NL = (place_1L - prompt_N1).clamp(min=0, max=answer.mask_NL.shape[1] - 1)
    answers_NL = answer.token_ids_NL.gather(1, of_answer_NL)
    right = answer.mask_NL.shape[1]
    ids_NL = torch.where(place_1L < prompt_N1, F.pad(prompt.token_ids_NL, (0, right)), answers_NL)
    return replace(
        answer,
        token_ids_NL=ids_NL,
        mask_NL=place_1L < prompt_N1 + answer_N1,
        counted_NL=(place_1L >= prompt_N1) & (place_1L < prompt_N1 + answer_N1),
        offset_NL2=None,
    )
