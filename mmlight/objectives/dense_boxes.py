"""The loss of a dense detection head: focal classes, GIoU boxes, and how well each box fits.

Shapes as in `mmlight.batch`: B samples of this rank, G boxes; A positions of all levels, K classes,
M positions that stand for an object.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from mmlight.batch import Boxes
from mmlight.objectives.box_objective import BoxObjective, check_weights, joined, of_samples
from mmlight.objectives.objective import Loss

# A level is for objects of which the farthest side is 4 to 8 strides from the position
# (arXiv 1904.01355, 3.2: 64 pixels at stride 8, and so on).
_REACH = 8.0


class DenseBoxLoss(BoxObjective):
    """FCOS's loss (arXiv 1904.01355, equation 2) with GIoU and centre sampling, as torchvision's.

    Sums are divided by the number of positions that stand for an object, over all ranks. Positions
    in the padding, and of samples without annotation, do not count.

    Args:
        radius: positions within this many strides of an object's centre stand for it.
        quality: what the quality branch learns: ``iou`` of the predicted box with its object
            (arXiv 1912.05070), or FCOS's ``centerness`` (equation 3).
        box_weight: factor of the GIoU loss.
        quality_weight: factor of the quality loss.
        focal_alpha: weight of objects against background in the focal loss (arXiv 1708.02002).
        focal_gamma: how much certain answers are discounted in it.
    """

    kind = "dense"

    def __init__(
        self,
        *,
        radius: float = 1.5,
        quality: Literal["iou", "centerness"] = "iou",
        box_weight: float = 1.0,
        quality_weight: float = 1.0,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
    ) -> None:
        super().__init__()
        check_weights(radius=radius, box_weight=box_weight, quality_weight=quality_weight)
        self.radius = radius
        self.quality = quality
        self.box_weight = box_weight
        self.quality_weight = quality_weight
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma

    def forward(
        self, outputs: Any, boxes: Boxes, *, counted_B: Tensor, canvas: tuple[int, int]
    ) -> Loss:
        """Return the loss; `outputs` are `mmlight.heads.dense_boxes.DenseOutputs`."""
        counts_BA = outputs.real_BA & counted_B[:, None]
        object_BA = assign(outputs.point_A2, outputs.stride_A, boxes, radius=self.radius)
        object_BA = object_BA.masked_fill(~counts_BA, -1)
        row_M, place_M = (object_BA >= 0).nonzero(as_tuple=True)
        object_M = object_BA[row_M, place_M]
        wanted_M4 = boxes.xyxy_BG4[row_M, object_M]
        target_BAK = torch.zeros_like(outputs.logit_BAK)
        target_BAK[row_M, place_M, boxes.label_BG[row_M, object_M]] = 1
        focal_BAK = sigmoid_focal_loss(
            outputs.logit_BAK, target_BAK, alpha=self.focal_alpha, gamma=self.focal_gamma
        )
        found_M4 = outputs.xyxy_BA4[row_M, place_M]
        fit_M = self._fit(found_M4.detach(), wanted_M4, outputs.point_A2[place_M])
        of_objects = {
            "box": generalized_box_iou_loss(found_M4, wanted_M4),
            "quality": F.binary_cross_entropy_with_logits(
                outputs.quality_BA[row_M, place_M], fit_M, reduction="none"
            ),
        }
        size = len(object_BA)
        parts = {name: of_samples(x_M, row_M, num_samples=size) for name, x_M in of_objects.items()}
        return joined(
            {"class": focal_BAK.masked_fill(~counts_BA[..., None], 0).sum((1, 2)), **parts},
            divisor=(object_BA >= 0).sum(1),
            weights={"class": 1.0, "box": self.box_weight, "quality": self.quality_weight},
        )

    def _fit(self, found_M4: Tensor, wanted_M4: Tensor, point_M2: Tensor) -> Tensor:
        if self.quality == "iou":
            return paired_iou(found_M4, wanted_M4)
        low_M2, high_M2 = point_M2 - wanted_M4[:, :2], wanted_M4[:, 2:] - point_M2
        shorter_M2, longer_M2 = torch.minimum(low_M2, high_M2), torch.maximum(low_M2, high_M2)
        return (shorter_M2 / longer_M2).prod(1).sqrt()


def assign(point_A2: Tensor, stride_A: Tensor, boxes: Boxes, *, radius: float) -> Tensor:
    """Return the object that each position stands for, or -1 (B, A).

    A position stands for the smallest object that it lies in, whose centre is within `radius`
    strides of it, and whose farthest side is as far away as its level is for.

    Args:
        point_A2: centres of the positions (x, y).
        stride_A: strides of their levels.
        boxes: the objects.
        radius: in strides.
    """
    xyxy_B1G4 = boxes.xyxy_BG4[:, None]
    if xyxy_B1G4.shape[2] == 0:
        return torch.full((len(xyxy_B1G4), len(point_A2)), -1, device=point_A2.device)
    point_A12, stride_A1 = point_A2[:, None], stride_A[:, None].float()
    side_BAG4 = torch.cat([point_A12 - xyxy_B1G4[..., :2], xyxy_B1G4[..., 2:] - point_A12], -1)
    centre_B1G2 = (xyxy_B1G4[..., :2] + xyxy_B1G4[..., 2:]) / 2
    away_BAG = (point_A12 - centre_B1G2).abs().amax(-1)
    reach_BAG = side_BAG4.amax(-1)
    least_A1 = torch.where(stride_A1 > stride_A1.min(), stride_A1 * (_REACH / 2), 0.0)
    most_A1 = torch.where(stride_A1 < stride_A1.max(), stride_A1 * _REACH, torch.inf)
    fits_BAG = (
        (side_BAG4.amin(-1) > 0)
        & (away_BAG < radius * stride_A1)
        & (reach_BAG > least_A1)
        & (reach_BAG < most_A1)
        & boxes.mask_BG[:, None]
    )
    area_B1G = (xyxy_B1G4[..., 2:] - xyxy_B1G4[..., :2]).prod(-1)
    area_BAG = torch.where(fits_BAG, area_B1G, torch.inf)
    least_BA, object_BA = area_BAG.min(-1)
    return object_BA.masked_fill(least_BA == torch.inf, -1)


def paired_iou(first_M4: Tensor, second_M4: Tensor) -> Tensor:
    """Return the intersection over union of boxes, row by row (M,)."""
    low_M2 = torch.maximum(first_M4[:, :2], second_M4[:, :2])
    high_M2 = torch.minimum(first_M4[:, 2:], second_M4[:, 2:])
    both_M = (high_M2 - low_M2).clamp(min=0).prod(1)
    first_M = (first_M4[:, 2:] - first_M4[:, :2]).prod(1)
    second_M = (second_M4[:, 2:] - second_M4[:, :2]).prod(1)
    return both_M / (first_M + second_M - both_M)
