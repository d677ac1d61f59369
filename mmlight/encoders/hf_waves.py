"""Runs wav2vec2 and HuBERT: padding changes no clip's frames, and torch draws all that is random.

transformers draws their masks from NumPy's global generator, which no step seeds, and leaves layers
out by a condition, so that their weights have no gradients in that step.

Shapes: B samples, T waveform samples, C channels, L frames, D feature width.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mmlight.encoders.mel import length_mask


def drop_layers(model: Any, probability: float) -> None:
    """Pass by each layer of a ``Wav2Vec2Model`` or ``HubertModel`` at random (LayerDrop).

    A layer that is passed by is computed all the same: its gradients are zero, and not missing,
    which would stop DDP. Source: arXiv 1909.11556.

    Args:
        model: the model, whose own config must say 0.
        probability: of each layer in each training step, for the whole batch.
    """
    for layer in model.encoder.layers:
        layer.register_forward_hook(partial(_pass_by, probability=probability))


def _pass_by(
    layer: nn.Module, inputs: tuple[Any, ...], output: Tensor, *, probability: float
) -> Tensor:
    if not layer.training:
        return output
    passed_by = torch.rand((), device=output.device) < probability
    return torch.where(passed_by, inputs[0], output)


def wave_frames(
    model: Any, waveform_BT: Tensor, length_B: Tensor, *, observed: Callable[..., Tensor]
) -> tuple[Tensor, Tensor]:
    """Run a ``Wav2Vec2Model`` or ``HubertModel``: frames (B, L, D), and which are real (B, L).

    The base models' first convolution is followed by a norm over the whole clip. The model itself
    takes it over the padding too (its own processors therefore advise against batching); here it
    is over real frames, as if each clip were alone.

    Args:
        model: the model.
        waveform_BT: its input.
        length_B: real samples of each clip.
        observed: `Encoder.observed`, which gets what the convolutions make of the waveforms.
    """
    hidden_BCL, real_B = waveform_BT.unsqueeze(1), length_B
    for layer in model.feature_extractor.conv_layers:
        real_B = (real_B - layer.conv.kernel_size[0]) // layer.conv.stride[0] + 1
        norm = getattr(layer, "layer_norm", None)
        if isinstance(norm, nn.GroupNorm):
            hidden_BCL = layer.conv(hidden_BCL)
            hidden_BCL = layer.activation(_norm_over_real(norm, hidden_BCL, real_B))
        else:
            hidden_BCL = layer(hidden_BCL)
    projected: Any = model.feature_projection(hidden_BCL.transpose(1, 2))
    hidden_BLD = projected[0] if isinstance(projected, tuple) else projected
    hidden_BLD = observed(hidden_BLD, axes=(None, 1), real_B=real_B)
    mask_BL = length_mask(real_B, hidden_BLD.shape[1])
    hidden_BLD = _hide(model, hidden_BLD, real_B)
    frames_BLD: Tensor = model.encoder(hidden_BLD, attention_mask=mask_BL).last_hidden_state
    return frames_BLD, mask_BL


def _hide(model: Any, hidden_BLD: Tensor, real_B: Tensor) -> Tensor:
    """Hide stretches of frames and of features in training, as the model's config says."""
    config = model.config
    if not model.training or not config.apply_spec_augment:
        return hidden_BLD
    size, width = hidden_BLD.shape[1:]
    if config.mask_time_prob > 0:
        hidden_BL = draw_spans(
            real_B,
            size,
            share=config.mask_time_prob,
            length=config.mask_time_length,
            least=config.mask_time_min_masks,
        )
        vector_D = model.masked_spec_embed.to(hidden_BLD.dtype)
        hidden_BLD = torch.where(hidden_BL.unsqueeze(2), vector_D, hidden_BLD)
    if config.mask_feature_prob > 0:
        hidden_BD = draw_spans(
            torch.full_like(real_B, width),
            width,
            share=config.mask_feature_prob,
            length=config.mask_feature_length,
            least=config.mask_feature_min_masks,
        )
        hidden_BLD = hidden_BLD.masked_fill(hidden_BD.unsqueeze(1), 0)
    return hidden_BLD


def draw_spans(real_B: Tensor, size: int, *, share: float, length: int, least: int) -> Tensor:
    """Return a bool mask (B, size) of spans that begin at different places and may overlap.

    As transformers draws them, but for what depends on the other clips of a batch: the number of
    spans is rounded up or down at random for each clip, and one that is shorter than a span stays
    whole. torch's own generator draws, which the task seeds at each step; no value is looked at.

    Args:
        real_B: real places of each row; spans lie within them.
        size: all places.
        share: of the real places that the spans would cover if they did not overlap.
        length: of a span.
        least: spans of a row, where they fit one beside the other.
    """
    device, num_rows = real_B.device, len(real_B)
    count_B = (share * real_B / length + torch.rand(num_rows, device=device)).long()
    count_B = torch.minimum(count_B.clamp(min=least), real_B // length)
    may_begin = length_mask(real_B - (length - 1), size)
    order = torch.rand(num_rows, size, device=device).masked_fill(~may_begin, 2.0)
    begins = order.argsort(1).argsort(1) < count_B.unsqueeze(1)
    begun = begins.cumsum(1)
    ended = nn.functional.pad(begun, (length, 0))[:, :size]
    return begun > ended


def _norm_over_real(norm: nn.GroupNorm, hidden_BCL: Tensor, real_B: Tensor) -> Tensor:
    """Normalise each channel of each clip over its real frames; float32 inside."""
    with torch.autocast(hidden_BCL.device.type, enabled=False):
        mask_B1L = length_mask(real_B, hidden_BCL.shape[2]).unsqueeze(1)
        count_B11 = real_B.view(-1, 1, 1)
        values_BCL = hidden_BCL.float() * mask_B1L
        mean_BC1 = values_BCL.sum(2, keepdim=True) / count_B11
        centred_BCL = (values_BCL - mean_BC1) * mask_B1L
        variance_BC1 = centred_BCL.square().sum(2, keepdim=True) / count_B11
        normal_BCL = centred_BCL * (variance_BC1 + norm.eps).rsqrt()
        if norm.weight is not None:
            normal_BCL = normal_BCL * norm.weight.float().view(1, -1, 1)
            normal_BCL = normal_BCL + norm.bias.float().view(1, -1, 1)
    return normal_BCL.to(hidden_BCL.dtype)
