"""Runs wav2vec2 and HuBERT so that padding does not change a clip's frames.

Shapes: B samples, T waveform samples, C channels, L frames, D feature width.
"""

from typing import Any

import torch
from torch import Tensor, nn

from mmlight.encoders.mel import length_mask


def frame_lengths(length_B: Tensor, config: Any) -> Tensor:
    """Return how many frames the model makes of each clip."""
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        length_B = (length_B - kernel) // stride + 1
    return length_B


def shortest_input(config: Any) -> int:
    """Return how many samples make one frame."""
    length = 1
    for kernel, stride in zip(
        reversed(config.conv_kernel), reversed(config.conv_stride), strict=True
    ):
        length = (length - 1) * stride + kernel
    return length


def wave_frames(model: Any, waveform_BT: Tensor, length_B: Tensor) -> Tensor:
    """Return the last hidden states (B, L, D) of a ``Wav2Vec2Model`` or ``HubertModel``.

    The base models' first convolution is followed by a norm over the whole clip. The model itself
    takes it over the padding too (its own processors therefore advise against batching); here it
    is over real frames, as if each clip were alone.
    """
    convolutions = model.feature_extractor.conv_layers
    hidden_BCL, real_B = waveform_BT.unsqueeze(1), length_B
    for layer in convolutions:
        real_B = (real_B - layer.conv.kernel_size[0]) // layer.conv.stride[0] + 1
        norm = getattr(layer, "layer_norm", None)
        if isinstance(norm, nn.GroupNorm):
            hidden_BCL = layer.conv(hidden_BCL)
            hidden_BCL = layer.activation(_norm_over_real(norm, hidden_BCL, real_B))
        else:
            hidden_BCL = layer(hidden_BCL)
    projected: Any = model.feature_projection(hidden_BCL.transpose(1, 2))
    hidden_BLD = projected[0] if isinstance(projected, tuple) else projected
    mask_BL = length_mask(real_B, hidden_BLD.shape[1])
    hidden_BLD = model._mask_hidden_states(hidden_BLD, attention_mask=mask_BL)
    frames_BLD: Tensor = model.encoder(hidden_BLD, attention_mask=mask_BL).last_hidden_state
    return frames_BLD


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
