"""CoCa's text tower as open_clip has it: a class token behind the text, which sees all of it.

Shapes as in `mmlight.batch`: N captions, L tokens, D feature width; W places, those of padding and
of the class token included.
"""

from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlight.batch import Text
from mmlight.encoders.encoder import Encoded
from mmlight.encoders.hf_text import HfText
from mmlight.errors import UserError


class CocaText(HfText):
    """A causal text transformer, pooled by a class token in its last place (arXiv 2205.01917).

    Open_clip's published models were trained with a mask that is shifted by one place: every token
    sees a place if the one *before* it is no padding. So the class token sees the first padding,
    and itself only behind a text that fills every place. `correct_mask` is the mask that was meant.

    Args:
        config: of a ``clip_text_model``; its last token id is the class token, its last position
            that token's.
        correct_mask: hide padding, and let the class token see itself.

    Raises:
        UserError: a config of another model.
    """

    def __init__(self, *, config: dict[str, Any], correct_mask: bool = False) -> None:
        super().__init__(config=config, pool="last", batching="padded")
        if self.model.config.model_type != "clip_text_model":
            raise UserError("config.model_type: CocaText takes a clip_text_model")
        assert self.max_tokens is not None
        self.correct_mask = correct_mask
        self.class_id = self.vocab_size - 1
        self.vocab_size -= 1
        self.max_tokens -= 1

    def forward(self, inputs: Text, *, tokens: bool = False) -> Encoded:
        """Encode captions.

        Args:
            inputs: token ids (N, L), padded on the right, and their mask.
            tokens: also return the last hidden states of the text.

        Raises:
            UserError: captions longer than the model's positions.
        """
        mask_NL, most = inputs.mask_NL, self.max_tokens
        assert most is not None
        if mask_NL.shape[1] > most:
            raise UserError(
                f"a caption has {mask_NL.shape[1]} tokens, but the text encoder takes at most "
                f"{most}; lower the data's limit on tokens"
            )
        pad_id = self.pad_token_id or 0
        ids_NW = inputs.token_ids_NL.masked_fill(~mask_NL, pad_id)
        if mask_NL.shape[1] < most:  # what a shorter text lets the class token see
            ids_NW = F.pad(ids_NW, (0, 1), value=pad_id)
        sees_N1WW = self._mask(ids_NW != pad_id)
        places_W = torch.arange(ids_NW.shape[1], device=ids_NW.device)
        places_W = F.pad(places_W, (0, 1), value=most)
        ids_NW = F.pad(ids_NW, (0, 1), value=self.class_id)
        with self._observed_embeddings(mask_NL) if self.is_observed else nullcontext():
            hidden_NWD: Tensor = self.model(
                input_ids=ids_NW, position_ids=places_W[None], attention_mask=sees_N1WW
            ).last_hidden_state
        pooled_ND = hidden_NWD[:, -1]
        return (
            Encoded(pooled_ND, hidden_NWD[:, : mask_NL.shape[1]], mask_NL)
            if tokens
            else (Encoded(pooled_ND))
        )

    def _mask(self, is_text_NW: Tensor) -> Tensor:
        """Return which place sees which (N, 1, W + 1, W + 1), the class token last."""
        if self.correct_mask:
            key_NW = F.pad(is_text_NW, (0, 1), value=True)
        else:
            key_NW = F.pad(is_text_NW, (1, 0), value=True)
        width = key_NW.shape[1]
        causal_WW = torch.ones(width, width, dtype=torch.bool, device=key_NW.device).tril()
        return (causal_WW & key_NW[:, None, :])[:, None]

    def rebuild_args(self) -> dict[str, Any]:
        """Return init arguments that rebuild this architecture without any checkpoint."""
        return {"config": super().rebuild_args()["config"], "correct_mask": self.correct_mask}
