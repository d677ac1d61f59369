"""Maps of an image at several strides, for detection; a timm model keeps its parameter names.

Shapes as in `mmlight.batch`: B samples, C channels, H and W positions of a map.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mmlight.errors import UserError

_FINEST = 4


@dataclass(frozen=True)
class MapSpec:
    """What one feature map looks like.

    Attributes:
        channels: number of channels C.
        stride: pixels of the image per position.
    """

    channels: int
    stride: int


@dataclass(frozen=True)
class FeatureMap:
    """A feature map: ``map_BCHW``, of which a position covers ``stride`` pixels each way."""

    map_BCHW: Tensor
    stride: int


def timm_map_specs(model: Any, *, key: str) -> dict[int, MapSpec]:
    """Return the maps that a timm model has to offer, by their index in its ``feature_info``.

    Of a CNN or another model in stages, the last map of each stride from 4 on; of a plain ViT,
    whose maps have all one stride, its last one.

    Args:
        model: a timm model.
        key: the setting that names the model, for messages.

    Raises:
        UserError: the model cannot return its intermediate maps.
    """
    info = getattr(model, "feature_info", None)
    if info is None or not hasattr(model, "forward_intermediates"):
        raise UserError(
            f"{key}: timm's {type(model).__name__} has no intermediate feature maps; choose a "
            "model with forward_intermediates, such as a ResNet, ConvNeXt, Swin or ViT"
        )
    last: dict[int, int] = {}
    entries = [info[number] for number in range(len(info))]
    for number, entry in enumerate(entries):
        if int(entry["reduction"]) >= _FINEST:
            last[int(entry["reduction"])] = number
    return {
        number: MapSpec(channels=int(entries[number]["num_chs"]), stride=stride)
        for stride, number in sorted(last.items())
    }


def timm_feature_maps(
    model: Any, normal_BCHW: Tensor, specs: dict[int, MapSpec]
) -> list[FeatureMap]:
    """Run a timm model and return its maps, finest first.

    Args:
        model: a timm model.
        normal_BCHW: normalised pixels.
        specs: of `timm_map_specs`, those wanted; what comes after the last of them isn't computed.
    """
    # A ViT's last map is normalised as its tokens are; other models know no such norm.
    norm = {"norm": True} if len(specs) == 1 and hasattr(model, "num_prefix_tokens") else {}
    maps = model.forward_intermediates(
        normal_BCHW,
        indices=list(specs),
        stop_early=True,
        intermediates_only=True,
        output_fmt="NCHW",
        **norm,
    )
    return [
        FeatureMap(map_BCHW, spec.stride)
        for map_BCHW, spec in zip(maps, specs.values(), strict=True)
    ]
