"""Attention weights of models as they are: their fast kernel is switched for a moment only.

Fused kernels never hold the weights in memory, so within a context manager the layers compute
attention step by step; it is the same function up to rounding (tests: less than 1e-5). Within it
every call of the model appends (B, H, L, L) per layer to the list that the context gives.
Afterwards, also after an error, the model is as it was.

Shapes as in `mmlight.batch`: B samples, L tokens; H heads.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mmlight.errors import UserError

# What transformers calls the modules that return weights beside their output.
_ATTENTION_NAMES = ("attention", "self_attn", "attn", "self")


@contextmanager
def timm_attention(model: Any) -> Iterator[list[Tensor]]:
    """Have a model of timm compute its attention step by step (see `Encoder.explicit_attention`).

    Raises:
        UserError: a model without blocks of plain attention.
    """
    layers: list[Any] = [getattr(block, "attn", None) for block in getattr(model, "blocks", ())]
    if not layers or not all(hasattr(a, "fused_attn") and hasattr(a, "attn_drop") for a in layers):
        raise UserError(
            f"explain: timm's {type(model).__name__} has no attention that can be looked at; use "
            "grad_cam or integrated_gradients"
        )
    seen: list[Tensor] = []

    def keep(module: Any, args: tuple[Tensor]) -> None:
        seen.append(args[0].detach())

    before = [layer.fused_attn for layer in layers]
    # The input of the dropout on the weights is the softmax itself, in training mode too.
    handles = [layer.attn_drop.register_forward_pre_hook(keep) for layer in layers]
    try:
        for layer in layers:
            layer.fused_attn = False
        # A compiled block would not see the switch.
        with torch.compiler.set_stance("force_eager"):
            yield seen
    finally:
        for layer, fused in zip(layers, before, strict=True):
            layer.fused_attn = fused
        for handle in handles:
            handle.remove()


@contextmanager
def transformers_attention(model: Any) -> Iterator[list[Tensor]]:
    """Have a model of transformers compute its attention step by step."""
    seen: list[Tensor] = []

    def keep(module: Any, args: Any, output: Any) -> None:
        weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if isinstance(weights, Tensor) and weights.ndim == 4:
            # BERT's attention hands its inner module's weights on: the same tensor again.
            if not seen or seen[-1].data_ptr() != weights.data_ptr():
                seen.append(weights.detach())

    before = model.config._attn_implementation
    handles = [
        module.register_forward_hook(keep)
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in _ATTENTION_NAMES
    ]
    try:
        # `output_attentions=True` alone gives an empty tuple under sdpa.
        model.set_attn_implementation("eager")
        with torch.compiler.set_stance("force_eager"):
            yield seen
    finally:
        model.set_attn_implementation(before)
        for handle in handles:
            handle.remove()
