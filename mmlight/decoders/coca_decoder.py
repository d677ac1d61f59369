"""CoCa's decoder (arXiv 2205.01917, figure 2): one pass gives a text's embedding and its caption.

Shapes as in `mmlight.decoders.decoder`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlight.batch import Text
from mmlight.decoders.decoder import Memory, masked_places
from mmlight.decoders.transformer_decoder import TransformerDecoder
from mmlight.encoders.encoder import Encoded
from mmlight.errors import UserError


class CocaDecoder(TransformerDecoder):
    """A decoder whose first layers read the text alone; a class token behind it stands for it.

    The class token sees the whole text and no padding; nothing of the text sees it. Only the layers
    behind the unimodal ones look at the memory. As a text tower it encodes texts by the unimodal
    layers.

    Args:
        settings: those of `TransformerDecoder`; `memory_dim` and `unimodal_layers` are needed.

    Raises:
        UserError: sizes that do not go together, or no unimodal layer.
    """

    _last_parts = ("norm.", "class_norm.")

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.unimodal_layers: int = self._init_args["unimodal_layers"]
        if not self.unimodal_layers:
            raise UserError(
                "unimodal_layers: a CocaDecoder needs 1 or more, behind which the text's embedding "
                "is taken"
            )
        dim, most = self.out_dim, self.max_tokens
        assert most is not None
        self.positions = nn.Embedding(most + 1, dim)  # one for the class token
        self.class_token_D = nn.Parameter(torch.empty(dim))
        self.class_norm = nn.LayerNorm(dim)
        for parameter in (self.positions.weight, self.class_token_D):
            nn.init.normal_(parameter, std=0.02)

    def _unimodal(self, text: Text) -> Tensor:
        """Return hidden states behind the unimodal layers (N, L + 1, D), the class token last."""
        # Not by `embed`: FSDP would take the other parameters away behind it.
        embedded_NLD = self.embeddings(text.token_ids_NL)
        self.check_length(embedded_NLD.shape[1])
        # Not len(...), which would fix the batch of an exported program.
        size = embedded_NLD.shape[0]
        class_N1D = self.class_token_D.to(embedded_NLD.dtype).expand(size, 1, -1)
        seen_NLD = torch.cat([self.observed(embedded_NLD, axes=(None, 1)), class_N1D], 1)
        mask_NL = F.pad(text.mask_NL, (0, 1), value=True)
        places = masked_places(mask_NL, length=mask_NL.shape[1])
        hidden_NLD = self.drop(seen_NLD + self.positions(places.position_NL))
        return self.through_layers(hidden_NLD, range(self.unimodal_layers), places)

    def forward(self, inputs: Text, *, tokens: bool = False) -> Encoded:
        """Encode texts by the unimodal layers alone; the class token stands for the text.

        Args:
            inputs: token ids (N, L), padded on the right.
            tokens: also return the features of each token.

        Raises:
            UserError: texts longer than the decoder's positions.
        """
        hidden_NLD = self._unimodal(inputs)
        pooled_ND = self.class_norm(hidden_NLD[:, -1])
        return (
            Encoded(pooled_ND, hidden_NLD[:, :-1], inputs.mask_NL) if tokens else Encoded(pooled_ND)
        )

    def both(self, inputs: Text, memory: Memory) -> Encoded:
        """Return texts' embeddings and the last hidden states, as `logits` takes them, in one pass.

        Args:
            inputs: token ids (N, L), padded on the right.
            memory: what each text is about.

        Raises:
            UserError: texts longer than the decoder's positions.
        """
        hidden_NLD = self._unimodal(inputs)
        length = inputs.mask_NL.shape[1]
        places = masked_places(inputs.mask_NL, length=length)
        later = range(self.unimodal_layers, len(self.layers))
        last_NLD = self.through_layers(hidden_NLD[:, :length], later, places, memory=memory)
        pooled_ND = self.class_norm(hidden_NLD[:, -1])
        return Encoded(pooled_ND, self.norm(last_NLD), inputs.mask_NL)

    def no_weight_decay(self) -> set[str]:
        """Return the positions and the class token."""
        return super().no_weight_decay() | {"class_token_D"}
