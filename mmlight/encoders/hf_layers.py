"""What the encoders around a model of transformers have in common: its layers."""

from abc import ABC
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from mmlight.encoders.attention import transformers_attention
from mmlight.encoders.depth import cut_into_blocks
from mmlight.encoders.encoder import Block, Encoder

_DECAY_FREE = (
    "position_embedding",
    "embed_positions",
    "relative_position_bias",
    "wpe.",
    "cls_token",
    "distillation_token",
    "masked_spec_embed",
    "query_D",
)


class HfLayers(Encoder, ABC):
    """An encoder around a `model` of transformers.

    `stem` are prefixes of parameters that are registered after the layers but applied before them.
    """

    outside = ("config", "pretrained")  # a config may be a folder
    model: Any
    pool: nn.Module | None
    pooling: str
    stem: ClassVar[tuple[str, ...]] = ()

    def blocks(self) -> list[Block]:
        """Return what comes before the layers, each layer, and what comes after."""
        # The last list: wav2vec2 has one of convolutions before that of its layers.
        name, length = [
            (name, len(module))
            for name, module in self.named_modules()
            if isinstance(module, nn.ModuleList)
            and len(module)
            and all(isinstance(layer, GradientCheckpointingLayer) for layer in module)
        ][-1]
        groups: list[list[str]] = [[] for _ in range(length + 2)]
        seen_layer = False
        for parameter, _ in self.named_parameters():
            if parameter.startswith(f"{name}."):
                seen_layer = True
                groups[int(parameter[len(name) + 1 :].split(".")[0]) + 1].append(parameter)
            elif seen_layer and not parameter.startswith(self.stem or "\0"):
                groups[-1].append(parameter)
            else:
                groups[0].append(parameter)
        return cut_into_blocks(self, groups)

    def no_weight_decay(self) -> set[str]:
        """Return position embeddings, class tokens and the query of a pooling."""
        return {n for n, _ in self.named_parameters() if any(free in n for free in _DECAY_FREE)}

    def set_checkpointing(self, enabled: bool) -> None:
        """Recompute layers in backward.

        `PreTrainedModel.activation_checkpointing_enable` refuses CLAP, whose stages can do it, and
        makes the output of a frozen embedding require gradients, which costs a locked tower its
        backward pass; so the layers are told one by one.
        """
        for module in self.model.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module.gradient_checkpointing = enabled
                recompute: Any = partial(checkpoint, use_reentrant=False)
                module._gradient_checkpointing_func = recompute

    def leave_out_pooling(self) -> None:
        """Take the mean in place of a learned query."""
        if self.learned_pooling is not None:
            self.pool, self.pooling = None, "mean"

    def explicit_attention(self) -> AbstractContextManager[list[Tensor]]:
        """Return the attention of the model's layers."""
        return transformers_attention(self.model)
