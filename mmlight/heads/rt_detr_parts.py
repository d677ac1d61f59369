"""Parts of RT-DETR: attention that leaves padding out, anchors, and how layers start.

Shapes as in `mmlight.batch`: B samples, L tokens of one map, D width; A positions of all levels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert
from transformers import RTDetrConfig
from transformers.models.rt_detr.modeling_rt_detr import (
    RTDetrAIFILayer,
    RTDetrMultiscaleDeformableAttention,
    get_contrastive_denoising_training_group,
)

from mmlight.batch import Boxes
from mmlight.trainer.internals import init_weights

_PRIOR = 0.01  # of every class at first (arXiv 1708.02002, 4.1)
_ANCHOR_SIDE = 0.05  # of the finest level, as a part of the image
_EDGE = 0.01


class MaskedAttention(nn.Module):
    """Self-attention within the coarsest map that leaves padding out.

    In place of transformers' ``RTDetrAIFILayer``, with its parameters and their names.

    Args:
        config: RT-DETR's configuration.
    """

    def __init__(self, config: RTDetrConfig) -> None:
        super().__init__()
        whole: Any = RTDetrAIFILayer(config)
        self.position_embedding = whole.position_embedding
        self.layers = whole.layers

    def forward(self, map_BDHW: Tensor, *, attended_B11L: Tensor) -> Tensor:
        """Return the map, every position of which has looked at all real ones.

        Args:
            map_BDHW: the coarsest map.
            attended_B11L: bool, True where a position is real.
        """
        size, dim, height, width = map_BDHW.shape
        token_BLD = map_BDHW.flatten(2).transpose(1, 2)
        position_1LD = self.position_embedding(
            width=width, height=height, device=token_BLD.device, dtype=token_BLD.dtype
        )
        bias_B11L = torch.zeros_like(attended_B11L, dtype=token_BLD.dtype)
        # Not minus infinity: a softmax over nothing is not a number.
        bias_B11L = bias_B11L.masked_fill(~attended_B11L, torch.finfo(token_BLD.dtype).min)
        bias_B1LL = bias_B11L.expand(-1, -1, token_BLD.shape[1], -1)
        for layer in self.layers:
            token_BLD = layer(
                token_BLD, attention_mask=bias_B1LL, spatial_position_embeddings=position_1LD
            )
        return token_BLD.transpose(1, 2).reshape(size, dim, height, width)


def anchors(sizes: Sequence[tuple[int, int]], *, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return a box for each position, and whether it lies well inside the image.

    Args:
        sizes: height and width of each map, finest first.
        device: of the result.

    Returns:
        (A, 4) as (x, y, width, height), parts of the padded image; (A,) bool.
    """
    levels = []
    for level, (height, width) in enumerate(sizes):
        y_H = (torch.arange(height, device=device) + 0.5) / height
        x_W = (torch.arange(width, device=device) + 0.5) / width
        y_HW, x_HW = torch.meshgrid(y_H, x_W, indexing="ij")
        side_HW = torch.full_like(x_HW, _ANCHOR_SIDE * 2.0**level)
        levels.append(torch.stack([x_HW, y_HW, side_HW, side_HW], -1).flatten(0, 1))
    anchor_A4 = torch.cat(levels)
    inside_A = ((anchor_A4 > _EDGE) & (anchor_A4 < 1 - _EDGE)).all(-1)
    return anchor_A4.clamp(_EDGE, 1 - _EDGE), inside_A


def initialise(head: nn.Module, *, decoder: Any) -> None:
    """Start layers as torch starts them, and deformable attention as its paper does.

    transformers starts the scales of norms near zero, which suits loading a checkpoint; from there
    nothing is learned.

    Args:
        head: the whole head.
        decoder: its ``RTDetrDecoder``.
    """
    for part in head.modules():
        if isinstance(part, nn.Linear | nn.Conv2d | nn.BatchNorm2d | nn.LayerNorm):
            part.reset_parameters()
    for part in decoder.modules():
        if isinstance(part, RTDetrMultiscaleDeformableAttention):
            init_weights(decoder, part)


def start_classes(*layers: nn.Linear) -> None:
    """Make every class improbable."""
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight)
        nn.init.constant_(layer.bias, -math.log((1 - _PRIOR) / _PRIOR))


def start_boxes(*heads: Any) -> None:
    """Make every box its reference."""
    for head in heads:
        nn.init.zeros_(head.layers[-1].weight)
        nn.init.zeros_(head.layers[-1].bias)


# Class logits (B, Q, K) and boxes (B, Q, 4) as (x, y, width, height), parts of the padded image.
Layer = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Noised:
    """What became of noised copies of the objects (denoising, arXiv 2203.01305).

    Attributes:
        layers: of every decoder layer, with N copies in place of Q queries.
        pairs: for each image, numbers of copies and of the objects they come from; copies that are
            too far away to be mended have none.
        num_groups: how often each object was copied.
    """

    layers: list[Layer]
    pairs: list[tuple[Tensor, Tensor]]
    num_groups: int


@dataclass(frozen=True)
class Copies:
    """Copies on their way into the decoder.

    Attributes:
        query_BND: embeddings of their classes, some of them changed.
        reference_BN4: their boxes, moved, before the sigmoid.
        attention_QQ: what must not be attended to among N copies and Q queries: minus infinity.
        pairs: see `Noised`.
        num_groups: see `Noised`.
    """

    query_BND: Tensor
    reference_BN4: Tensor
    attention_QQ: Tensor
    pairs: list[tuple[Tensor, Tensor]]
    num_groups: int


def make_copies(
    boxes: Boxes,
    *,
    canvas: tuple[int, int],
    embed: nn.Embedding,
    num_copies: int,
    num_queries: int,
) -> Copies | None:
    """Return noised copies (arXiv 2203.03605, 3.3), drawn by torch's global generator.

    Args:
        boxes: the objects, in pixels.
        canvas: height and width of the padded images.
        embed: embeddings of K classes and of none.
        num_copies: copies per image, at least one of each object; as many again are too far away.
        num_queries: Q.

    Returns:
        The copies, or None where no image has an object.
    """
    if not bool(boxes.mask_BG.any()):
        return None
    height, width = canvas
    scale_4 = boxes.xyxy_BG4.new_tensor([width, height, width, height])
    box_BG4 = box_convert(boxes.xyxy_BG4 / scale_4, "xyxy", "cxcywh")
    places = [mask_G.nonzero()[:, 0] for mask_G in boxes.mask_BG]
    targets = [
        {"class_labels": label_G[place], "boxes": box_G4[place]}
        for label_G, box_G4, place in zip(boxes.label_BG, box_BG4, places, strict=True)
    ]
    query_BND, reference_BN4, attention_QQ, meta = get_contrastive_denoising_training_group(
        targets=targets,
        num_classes=embed.num_embeddings - 1,
        num_queries=num_queries,
        class_embed=embed,
        num_denoising_queries=num_copies,
    )
    groups = int(meta["dn_num_group"])
    pairs = [
        (numbers, place.repeat(groups))
        for numbers, place in zip(meta["dn_positive_idx"], places, strict=True)
    ]
    assert isinstance(attention_QQ, torch.Tensor)
    return Copies(query_BND, reference_BN4, attention_QQ, pairs, groups)
