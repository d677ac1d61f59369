"""What stands in the place of what is taken away from a sample, and where gradients begin."""

from dataclasses import replace

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
        tokens: how a caption was cut.
    """
    canvas = subject.canvas
    if subject.modality == "text":
        assert tokens is not None
        return _blank_caption(subject, tokens)
    if subject.modality == "image":
        return _blank_image(subject, image_blank)
    if canvas.rows == 1:
        return _silence(subject)
    real_K = torch.arange(canvas.columns, device=canvas.values.device) < canvas.real_B[0]
    inside = canvas.spread(real_K.expand(1, canvas.rows, -1).float()).bool()
    inside = inside.expand_as(canvas.values)
    quietest = canvas.values[inside].min()
    return torch.where(inside, quietest, canvas.values)


def _blank_caption(subject: Subject, tokens: Tokens) -> Tensor:
    text = subject.batch.text
    assert text is not None
    ids_NL = torch.full_like(text.token_ids_NL, tokens.blank_id)
    blank = subject.encoder.read_canvas(replace(text, token_ids_NL=ids_NL)).values
    says = [bool(piece.strip()) for piece in tokens.pieces]
    says_K = torch.tensor(says, device=blank.device)
    return torch.where(says_K[None, :, None], blank, subject.canvas.values)


def _silence(subject: Subject) -> Tensor:
    audio = subject.batch.audio
    assert audio is not None
    silent = replace(audio, waveform_BT=torch.zeros_like(audio.waveform_BT))
    return subject.encoder.read_canvas(silent).values


def _blank_image(subject: Subject, kind: ImageBlank) -> Tensor:
    values = subject.canvas.values
    if kind == "mean":
        return torch.zeros_like(values)
    if kind == "black":
        image = subject.batch.image
        assert image is not None
        pixels_BCHW = torch.zeros_like(image.pixels_BCHW)
        return subject.encoder.read_canvas(replace(image, pixels_BCHW=pixels_BCHW)).values
    sigma = min(values.shape[2:]) * _BLUR
    radius = min(round(2 * sigma), min(values.shape[2:]) - 1)
    steps = torch.arange(-radius, radius + 1, device=values.device, dtype=values.dtype)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(values.shape[1], 1, -1)
    padded = F.pad(values, (radius,) * 4, mode="reflect")
    rows = F.conv2d(padded, kernel.unsqueeze(3), groups=values.shape[1])
    return F.conv2d(rows, kernel.unsqueeze(2), groups=values.shape[1])
