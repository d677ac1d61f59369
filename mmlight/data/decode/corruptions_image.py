"""Spoils pixels: noise, blur, compression, occlusion.

Shapes: C channels, H and W pixels. All take and give uint8 pixels of the model's size; `amount` is
what `mmlight.data.decode.corruptions.KINDS` says.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg
from torchvision.transforms.functional import gaussian_blur

from mmlight.data.decode.draw import Draws

_GREY = 128


def noise(pixels_CHW: Tensor, *, amount: float, draws: Draws) -> Tensor:
    """Add Gaussian noise of standard deviation `amount` (of a range of 1) to each value."""
    values = draws.normals(pixels_CHW.numel()).reshape(pixels_CHW.shape) * (255 * amount)
    noisy = pixels_CHW.numpy().astype(np.float32) + values
    return torch.from_numpy(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))


def blur(pixels_CHW: Tensor, *, amount: float, draws: Draws) -> Tensor:
    """Blur with a Gaussian whose standard deviation is `amount` shorter sides."""
    sigma = amount * min(pixels_CHW.shape[1:])
    reach = min(math.ceil(3 * sigma), min(pixels_CHW.shape[1:]) - 1)  # mirrored at the edges
    if sigma == 0 or reach == 0:
        return pixels_CHW
    return gaussian_blur(pixels_CHW, [2 * reach + 1] * 2, [sigma, sigma])


def jpeg(pixels_CHW: Tensor, *, amount: float, draws: Draws) -> Tensor:
    """Compress to a JPEG file of quality `amount` and decode it again."""
    file = encode_jpeg(pixels_CHW.contiguous(), quality=round(amount))
    return decode_jpeg(file, mode=ImageReadMode.UNCHANGED)


def occlusion(pixels_CHW: Tensor, *, amount: float, draws: Draws) -> Tensor:
    """Cover a rectangle of `amount` of the area, shaped as the image, at a drawn place."""
    height, width = pixels_CHW.shape[1:]
    box_height, box_width = (round(side * math.sqrt(amount)) for side in (height, width))
    top = draws.integer(height - box_height + 1)
    left = draws.integer(width - box_width + 1)
    covered_CHW = pixels_CHW.clone()
    covered_CHW[:, top : top + box_height, left : left + box_width] = _GREY
    return covered_CHW
