"""Boxes of a sample: read from JSON, checked, and clipped to the image.

Shapes: N boxes of one sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_convert

from mmlight.class_names import NoClassError, class_number
from mmlight.errors import UserError
from mmlight.modality import BoxFormat

# Pixels; boxes may reach beyond their image, but not by more than any image has.
_FARTHEST = 1e9


@dataclass(frozen=True)
class BoxSet:
    """The objects of one image.

    Attributes:
        xyxy_N4: float32 corners (left, top, right, bottom) in pixels.
        label_N: int64 class numbers.
        annotated_N4: float64 corners as annotated, in pixels of the image as stored, not clipped.
    """

    xyxy_N4: Tensor
    label_N: Tensor
    annotated_N4: Tensor


def parse_boxes(
    boxes: Any,
    labels: Any,
    *,
    box_format: BoxFormat,
    class_names: Sequence[str] | None,
    width: int,
    height: int,
) -> BoxSet:
    """Check the boxes of one sample and clip them to its image.

    Args:
        boxes: a list of four numbers each, in pixels of the image.
        labels: a class number or a class name for each.
        box_format: what the four numbers are.
        class_names: names in the order of the class numbers.
        width: of the image, pixels.
        height: of the image, pixels.

    Raises:
        ValueError: no such lists, of unequal lengths, or a box that has no area in the image.
        UserError: a label that no class name is for.
    """
    if not isinstance(boxes, list) or not isinstance(labels, list):
        raise ValueError(f"boxes and labels must be lists, not {_kind(boxes)} and {_kind(labels)}")
    if len(boxes) != len(labels):
        raise ValueError(f"{len(boxes)} boxes, but {len(labels)} labels")
    for box in boxes:
        if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
            raise ValueError(f"box {box!r} is not a list of four numbers")
    label_N = torch.tensor([box_class(label, class_names) for label in labels]).long()
    given_N4 = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    limit_4 = torch.tensor([width, height, width, height], dtype=torch.float32)
    annotated_N4 = box_convert(given_N4, box_format, "xyxy")
    xyxy_N4 = annotated_N4.float().clamp(min=0).minimum(limit_4)
    has_area_N = (xyxy_N4[:, 2:] > xyxy_N4[:, :2]).all(1)  # False for NaN, too
    if not bool(has_area_N.all()):
        first = int((~has_area_N).nonzero()[0])
        raise ValueError(
            f"box {boxes[first]} ({box_format}) has no area in the image of {width} x {height}"
        )
    return BoxSet(xyxy_N4, label_N, annotated_N4)


def box_class(label: Any, class_names: Sequence[str] | None) -> int:
    """Return the number of a box's class, given as such or by name; without names any number.

    Raises:
        ValueError: neither a number nor a name.
        UserError: there is no such class.
    """
    try:
        return class_number(label, class_names)
    except (NoClassError, UserError) as error:
        raise UserError(f"members.box_labels: {error}") from error


def _kind(value: Any) -> str:
    return "missing" if value is None else type(value).__name__


def _is_number(value: Any) -> bool:
    """Return whether a coordinate is a number that float32 holds; nan is none."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and -_FARTHEST <= value <= _FARTHEST
