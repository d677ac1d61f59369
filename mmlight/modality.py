"""The modalities that mmlight knows, in the order in which they are always named; boxes."""

from typing import Literal, get_args

Modality = Literal["image", "text", "audio"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)

# The four numbers of a box: corners; left, top, width and height; or centre, width and height.
BoxFormat = Literal["xyxy", "xywh", "cxcywh"]
