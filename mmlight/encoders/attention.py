"""Attention maps, from the models as they are: their fast kernel is switched for a moment only.

Fused kernels never hold the maps in memory, so within a context manager the layers compute
attention step by step; it is the same function up to rounding. Afterwards nothing has changed.

Shapes as in `mmlight.batch`: B samples, L tokens; H heads.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmlight.encoders.canvas import read_canvas
from mmlight.encoders.encoder import Encoder
from mmlight.encoders.eval_mode import eval_mode
from mmlight.encoders.hf_audio import HfAudio
from mmlight.encoders.hf_text import HfText
from mmlight.encoders.mel_timm import MelTimm
from mmlight.encoders.timm_image import TimmImage
from mmlight.encoders.token_grid import TokenGrid, require_grid
from mmlight.errors import UserError


@dataclass(frozen=True)
class Attention:
    """The attention of every layer.

    Attributes:
        layers: by layer, (B, H, L, L) weights from each token (rows) to each other; rows sum to 1.
        pooling_BL: how the pooled vector reads the last layer's tokens, summing to 1: all on the
            class token, or even over real tokens. Pooling by maximum or by learned attention is
            taken as even.
        grid: where the tokens lie.
    """

    layers: tuple[Tensor, ...]
    pooling_BL: Tensor
    grid: TokenGrid


@torch.no_grad()
def attention_maps(encoder: Encoder, inputs: Any) -> Attention:
    """Return the attention weights of a transformer, in evaluation mode.

    Args:
        encoder: a ViT of timm on pixels or spectrograms, or a text or audio model of transformers.
        inputs: `Images`, `Text` or `Audio`.

    Raises:
        UserError: a network without attention between all of its tokens (a CNN, Swin, CLAP).
    """
    canvas = read_canvas(encoder, inputs)
    grid = require_grid(encoder, canvas)
    with eval_mode(encoder), explicit_attention(encoder) as layers:
        encoded = encoder(inputs, tokens=True)
    mask_BL = encoded.mask_BL
    assert mask_BL is not None
    if not layers or layers[0].shape[-1] != grid.num_tokens:
        raise UserError(
            f"explain: a {type(encoder.model).__name__} gives no attention between all of its "
            "tokens; use grad_cam or integrated_gradients"
        )
    ahead_BP = mask_BL.new_zeros(len(mask_BL), grid.prefix)
    return Attention(tuple(layers), _pooling(encoder, torch.cat([ahead_BP, mask_BL], 1)), grid)


def explicit_attention(encoder: Encoder) -> AbstractContextManager[list[Tensor]]:
    """Have an encoder compute its attention step by step, and collect each layer's weights.

    Within the context every call of the encoder appends (B, H, L, L) per layer to the list that
    the context gives. Outputs differ from those of the fused kernel by rounding only (tests: less
    than 1e-5). Afterwards, also after an error, the encoder is as it was.

    Args:
        encoder: see `attention_maps`.

    Raises:
        UserError: see `attention_maps`.
    """
    if isinstance(encoder, TimmImage | MelTimm):
        return _timm(encoder.model)
    if isinstance(encoder, HfText):
        return _padded(encoder)
    if isinstance(encoder, HfAudio):
        return _transformers(encoder.model)
    raise UserError(f"explain: nothing is known of the attention of a {type(encoder).__name__}")


@contextmanager
def _timm(model: Any) -> Iterator[list[Tensor]]:
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
def _padded(encoder: HfText) -> Iterator[list[Tensor]]:
    with encoder.kept_padded(), _transformers(encoder.model) as layers:
        yield layers


@contextmanager
def _transformers(model: Any) -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []

    def keep(module: Any, args: Any, output: Any) -> None:
        weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        # BERT's attention hands its inner module's weights on: the same tensor again.
        if isinstance(weights, Tensor) and weights.ndim == 4 and not _is_last(weights, seen):
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


_ATTENTION_NAMES = ("attention", "self_attn", "attn", "self")


def _is_last(weights: Tensor, seen: list[Tensor]) -> bool:
    return bool(seen) and seen[-1].data_ptr() == weights.data_ptr()


def _pooling(encoder: Any, mask_BL: Tensor) -> Tensor:
    weights_BL = mask_BL.float()
    on_first = (
        (isinstance(encoder, TimmImage) and encoder.model.global_pool == "token")
        or (isinstance(encoder, HfText) and encoder.text_pool == "cls")
        or (isinstance(encoder, HfAudio) and encoder.audio_hf_pool == "model")
    )
    if on_first:
        weights_BL = torch.zeros_like(weights_BL)
        weights_BL[:, 0] = 1
        if isinstance(encoder, HfAudio):
            weights_BL[:, 1] = 1  # the distillation token
    elif isinstance(encoder, HfText) and encoder.text_pool == "last":
        position_L = torch.arange(mask_BL.shape[1], device=mask_BL.device)
        weights_BL = (position_L == (position_L * mask_BL).amax(1, keepdim=True)).float()
    return weights_BL / weights_BL.sum(1, keepdim=True)
