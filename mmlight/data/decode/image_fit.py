"""Fits an image, with the boxes in it, into a square without cutting or squashing it.

Image and boxes go through the same kernels of torchvision's transforms v2.
Shapes: C channels, H and W pixels, N boxes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from mmlight.data.decode.boxes import BoxSet
from mmlight.data.decode.draw import Draws

_MODES = {
    "bicubic": InterpolationMode.BICUBIC,
    "bilinear": InterpolationMode.BILINEAR,
    "nearest": InterpolationMode.NEAREST_EXACT,
}
# Below this part of its area left by a crop, a box is dropped: there is little to see of it.
_LEAST_VISIBLE = 0.25
_LEAST_SIDE = 1.0


@dataclass(frozen=True)
class Fitted:
    """An image scaled to fit, not yet padded.

    Attributes:
        pixels_CHW: uint8, at most the asked size.
        original: height and width of the image as stored.
        to_original: (scale_x, scale_y, offset_x, offset_y), see `mmlight.batch.View`.
        boxes: boxes in these pixels; None where none were given.
        orientation: how the image as stored was turned before, see `orientation`.
    """

    pixels_CHW: Tensor
    original: tuple[int, int]
    to_original: tuple[float, float, float, float]
    boxes: BoxSet | None
    orientation: int = 1


def fit_size(height: int, width: int, *, size: int) -> tuple[int, int]:
    """Return height and width scaled so that the longer is `size`; never below 1."""
    factor = size / max(height, width)
    return max(1, round(height * factor)), max(1, round(width * factor))


def fit(
    pixels_CHW: Tensor,
    boxes: BoxSet | None,
    *,
    size: int,
    interpolation: str | None = None,
    flip: bool = False,
) -> Fitted:
    """Scale the longer side to `size`; `flip` mirrors left to right."""
    height, width = pixels_CHW.shape[1:]
    return _cut(
        pixels_CHW,
        boxes,
        box=(0, 0, height, width),
        to=fit_size(height, width, size=size),
        flips=(flip, False),
        interpolation=interpolation,
    )


def random_fit(
    pixels_CHW: Tensor,
    boxes: BoxSet | None,
    *,
    size: int,
    interpolation: str | None = None,
    zoom: tuple[float, float],
    flip_probability: float,
    vertical_flip_probability: float,
    draws: Draws,
) -> Fitted:
    """Fit at a random scale (large-scale jitter, arXiv 2012.07177), and flip.

    The zoom's logarithm is drawn evenly. Above a zoom of 1 a window of the image's own proportions
    is cut at a random place; below 1 the image is made smaller. Boxes of which the window leaves
    less than a quarter are dropped, others clipped.
    """
    height, width = pixels_CHW.shape[1:]
    factor = zoom[0] * (zoom[1] / zoom[0]) ** draws.uniform()
    cut_height = max(1, min(height, round(height / factor)))
    cut_width = max(1, min(width, round(width / factor)))
    top = draws.integer(height - cut_height + 1)
    left = draws.integer(width - cut_width + 1)
    full = fit_size(height, width, size=size)
    shrink = min(1.0, factor)
    return _cut(
        pixels_CHW,
        boxes,
        box=(top, left, cut_height, cut_width),
        to=(max(1, round(full[0] * shrink)), max(1, round(full[1] * shrink))),
        flips=(draws.uniform() < flip_probability, draws.uniform() < vertical_flip_probability),
        interpolation=interpolation,
    )


def jitter_color(pixels_CHW: Tensor, strength: float, *, draws: Draws) -> Tensor:
    """Change brightness, contrast, saturation by factors of 1 - strength to 1 + strength."""
    for change in (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation):
        pixels_CHW = change(pixels_CHW, draws.uniform(1 - strength, 1 + strength))
    return pixels_CHW


def _cut(
    pixels_CHW: Tensor,
    boxes: BoxSet | None,
    *,
    box: tuple[int, int, int, int],
    to: tuple[int, int],
    flips: tuple[bool, bool],
    interpolation: str | None,
) -> Fitted:
    original = (pixels_CHW.shape[1], pixels_CHW.shape[2])
    top, left, height, width = box
    pixels_CHW = F.resized_crop(
        pixels_CHW,
        *(top, left, height, width, list(to)),
        interpolation=_MODES[interpolation or "bicubic"],
        antialias=True,
    )
    scale_x, scale_y = width / to[1], height / to[0]
    offset_x, offset_y = float(left), float(top)
    if flips[0]:
        pixels_CHW = F.horizontal_flip(pixels_CHW)
        scale_x, offset_x = -scale_x, float(left + width)
    if flips[1]:
        pixels_CHW = F.vertical_flip(pixels_CHW)
        scale_y, offset_y = -scale_y, float(top + height)
    return Fitted(
        pixels_CHW=pixels_CHW,
        original=original,
        to_original=(scale_x, scale_y, offset_x, offset_y),
        boxes=_cut_boxes(boxes, original, box=box, to=to, flips=flips) if boxes else None,
    )


def _cut_boxes(
    boxes: BoxSet,
    original: tuple[int, int],
    *,
    box: tuple[int, int, int, int],
    to: tuple[int, int],
    flips: tuple[bool, bool],
) -> BoxSet:
    # Clipped by hand below: how much of a box is left must be known.
    moved: Tensor = tv_tensors.BoundingBoxes(
        boxes.xyxy_N4, format="XYXY", canvas_size=original, clamping_mode=None
    )
    moved = F.resized_crop(moved, *box, list(to))
    if flips[0]:
        moved = F.horizontal_flip(moved)
    if flips[1]:
        moved = F.vertical_flip(moved)
    whole_N4 = moved.as_subclass(Tensor)
    limit_4 = torch.tensor([to[1], to[0], to[1], to[0]], dtype=whole_N4.dtype)
    xyxy_N4 = whole_N4.clamp(min=0).minimum(limit_4)
    sides_N2 = (xyxy_N4[:, 2:] - xyxy_N4[:, :2]).clamp(min=0)
    whole_N2 = whole_N4[:, 2:] - whole_N4[:, :2]
    keep_N = torch.ones(len(xyxy_N4), dtype=torch.bool)
    if box[2:] != original:
        keep_N = sides_N2.prod(1) >= _LEAST_VISIBLE * whole_N2.prod(1)
        keep_N &= (sides_N2 >= _LEAST_SIDE).all(1)
    return BoxSet(xyxy_N4[keep_N], boxes.label_N[keep_N], boxes.annotated_N4[keep_N])
