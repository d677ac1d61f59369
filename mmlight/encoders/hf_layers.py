"""What the encoders around a model of transformers have in common: its layers."""

from typing import Any, ClassVar

from torch import nn

from mmlight.encoders.depth import cut_into_blocks
from mmlight.encoders.encoder import Block
from mmlight.encoders.hf_model import set_layer_checkpointing, transformers_groups, undecayed


class HfLayers(nn.Module):
    """Methods of `mmlight.encoders.encoder.Encoder` for a `model` of transformers.

    A subclass names it before `Encoder`; `stem` is handed to `transformers_groups`.
    """

    model: Any
    stem: ClassVar[tuple[str, ...]] = ()

    def blocks(self) -> list[Block]:
        """Return what comes before the layers, each layer, and what comes after."""
        return cut_into_blocks(self, transformers_groups(self, stem=self.stem))

    def no_weight_decay(self) -> set[str]:
        """Return position embeddings, class tokens and the query of a pooling."""
        return undecayed(self)

    def set_checkpointing(self, enabled: bool) -> None:
        """Recompute layers in backward."""
        set_layer_checkpointing(self.model, enabled)
