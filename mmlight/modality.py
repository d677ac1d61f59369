"""The modalities that mmlight knows, in the order in which they are always named."""

from typing import Literal, get_args

Modality = Literal["image", "text", "audio"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)
