"""Noised copies of the objects, from which a query head learns to mend boxes and classes.

Shapes as in `mmlight.batch`: B samples, G boxes; Q queries, N copies of all objects, D their width,
K classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert
from transformers.models.rt_detr.modeling_rt_detr import get_contrastive_denoising_training_group

from mmlight.batch import Boxes

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
    query_BND, reference_BN4, attention_QQ, told = get_contrastive_denoising_training_group(
        targets=targets,
        num_classes=embed.num_embeddings - 1,
        num_queries=num_queries,
        class_embed=embed,
        num_denoising_queries=num_copies,
    )
    groups = int(told["dn_num_group"])
    pairs = [
        (numbers, place.repeat(groups))
        for numbers, place in zip(told["dn_positive_idx"], places, strict=True)
    ]
    assert isinstance(attention_QQ, torch.Tensor)
    return Copies(query_BND, reference_BN4, attention_QQ, pairs, groups)
