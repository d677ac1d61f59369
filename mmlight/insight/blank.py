"""What stands in the place of what is taken away from a sample, and where gradients begin."""

from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from mmlight.insight.settings import ImageBlank
from mmlight.insight.subject import Subject
from mmlight.insight.units import Tokens

_BLUR = 1 / 8  # of the shorter side: standard deviation of the blur


@torch.no_grad()
def blank_canvas(
    subject: Subject, *, image_blank: ImageBlank = "mean", tokens: Tokens | None = None
) -> Tensor:
    """Return what the network would read if the sample said nothing; laid out as its canvas.

    A caption's tokens become the blank token, except start and end. A spectrogram becomes its own
    quietest value, the frames of a waveform those of silence.

    Args:
        subject: the sample.
        image_blank: an image becomes its normalisation's mean, black, or a blur of itself.
        tokens: how a caption was cut; None for other modalities.
    """
    canvas, inputs = subject.canvas, cast(Any, subject.inputs)

    def read(**changed: Tensor) -> Tensor:
        return subject.encoder.read_canvas(replace(inputs, **changed)).values

    if tokens is not None:
        blank = read(token_ids_NL=torch.full_like(inputs.token_ids_NL, tokens.blank_id))
        says_K = torch.tensor([bool(piece.strip()) for piece in tokens.pieces], device=blank.device)
        return torch.where(says_K[None, :, None], blank, canvas.values)
    if subject.modality == "image":
        if image_blank == "mean":
            return torch.zeros_like(canvas.values)
        if image_blank == "black":
            return read(pixels_BCHW=torch.zeros_like(inputs.pixels_BCHW))
        return _blurred(canvas.values)
    if canvas.rows == 1:
        return read(waveform_BT=torch.zeros_like(inputs.waveform_BT))
    real_K = torch.arange(canvas.columns, device=canvas.values.device) < canvas.real_B[0]
    inside = canvas.spread(real_K.expand(1, canvas.rows, -1).float()).bool()
    inside = inside.expand_as(canvas.values)
    quietest = canvas.values[inside].min()
    return torch.where(inside, quietest, canvas.values)


def _blurred(values: Tensor) -> Tensor:
    sigma = min(values.shape[2:]) * _BLUR
    radius = min(round(2 * sigma), min(values.shape[2:]) - 1)
    steps = torch.arange(-radius, radius + 1, device=values.device, dtype=values.dtype)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(values.shape[1], 1, -1)
    padded = F.pad(values, (radius,) * 4, mode="reflect")
    rows = F.conv2d(padded, kernel.unsqueeze(3), groups=values.shape[1])
    return F.conv2d(rows, kernel.unsqueeze(2), groups=values.shape[1])
