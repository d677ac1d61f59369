"""A dense detection head: every position of a feature pyramid predicts one box (FCOS).

Shapes as in `mmlight.batch`: B samples; A positions of all levels, Q candidates, K classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlight.batch import Boxes
from mmlight.errors import UserError
from mmlight.heads.box_head import BoxHead
from mmlight.heads.feature_pyramid import FeaturePyramid, group_norm, real_masks

# What the last layer's bias makes of the classes' probability at first (arXiv 1708.02002, 4.1).
_PRIOR = 0.01


@dataclass(frozen=True)
class DenseOutputs:
    """Predictions of every position, finest level first.

    Attributes:
        logit_BAK: class logits.
        xyxy_BA4: boxes in pixels of the padded image.
        quality_BA: logit of how well the box fits.
        point_A2: the positions' centres (x, y) in pixels.
        stride_A: stride of each position's level in pixels.
        real_BA: bool, False in the padding.
    """

    logit_BAK: Tensor
    xyxy_BA4: Tensor
    quality_BA: Tensor
    point_A2: Tensor
    stride_A: Tensor
    real_BA: Tensor


class DenseBoxes(BoxHead):
    """FCOS (arXiv 1904.01355) with group norms: learns from few images, without pretraining.

    Distances to the sides come out of a softplus rather than an exponential, which early in
    training neither explodes nor dies.

    Args:
        dim: channels of the pyramid and of the two towers.
        strides: strides of the pyramid's levels in pixels.
        num_convs: convolutions of each of the two towers, which all levels share.
    """

    kind = "dense"
    needs_nms = True

    def __init__(
        self, *, dim: int = 128, strides: tuple[int, ...] = (8, 16, 32), num_convs: int = 2
    ) -> None:
        super().__init__()
        if dim < 8 or dim % 8:
            raise UserError(f"model.head dim must be a multiple of 8, not {dim}")
        if num_convs < 1:
            raise UserError(f"model.head num_convs must be 1 or more, not {num_convs}")
        self.dim = dim
        self.strides = tuple(strides)
        self.num_convs = num_convs

    def build(self, *, in_dims: Sequence[int], in_strides: Sequence[int], num_classes: int) -> None:
        """Create pyramid, towers and predictors."""
        self.pyramid = FeaturePyramid(
            in_dims, in_strides=in_strides, strides=self.strides, dim=self.dim
        )
        self.uses = self.pyramid.uses
        self.class_tower = self._tower()
        self.box_tower = self._tower()
        self.logits = nn.Conv2d(self.dim, num_classes, 3, padding=1)
        self.distances = nn.Conv2d(self.dim, 4, 3, padding=1)
        self.quality = nn.Conv2d(self.dim, 1, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(len(self.strides)))
        for layer in (self.logits, self.distances, self.quality):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.logits.bias, -math.log((1 - _PRIOR) / _PRIOR))  # type: ignore[arg-type]
        # Boxes of twice four strides at first, near the middle of what a level is for.
        nn.init.constant_(self.distances.bias, 4.0)  # type: ignore[arg-type]

    def forward(
        self,
        maps: Sequence[Tensor],
        *,
        area_B2: Tensor,
        canvas: tuple[int, int],
        boxes: Boxes | None,
    ) -> DenseOutputs:
        """Return the predictions; `boxes` are not looked at."""
        levels = self.pyramid(maps, area_B2)
        sizes = [(int(level.shape[2]), int(level.shape[3])) for level in levels]
        logits, boxes_of, quality, points, strides = [], [], [], [], []
        for number, (level, stride) in enumerate(zip(levels, self.strides, strict=True)):
            classed = self.class_tower(level)
            boxed = self.box_tower(level)
            point_A2 = _centres(sizes[number], stride, device=level.device)
            distance_BA4 = stride * F.softplus(
                _flatten(self.distances(boxed)).float() * self.scales[number].float()
            )
            boxes_of.append(
                torch.cat([point_A2 - distance_BA4[..., :2], point_A2 + distance_BA4[..., 2:]], -1)
            )
            logits.append(_flatten(self.logits(classed)))
            quality.append(_flatten(self.quality(boxed))[..., 0])
            points.append(point_A2)
            strides.append(torch.full((len(point_A2),), stride, device=level.device))
        masks = real_masks(area_B2, sizes, self.strides)
        return DenseOutputs(
            logit_BAK=torch.cat(logits, 1).float(),
            xyxy_BA4=torch.cat(boxes_of, 1),
            quality_BA=torch.cat(quality, 1).float(),
            point_A2=torch.cat(points),
            stride_A=torch.cat(strides),
            real_BA=torch.cat([mask.flatten(1) for mask in masks], 1),
        )

    def scored_boxes(self, outputs: DenseOutputs) -> tuple[Tensor, Tensor]:
        """Return each position's box, and the geometric means of its class and its quality."""
        quality_BA1 = outputs.quality_BA.sigmoid()[..., None]
        score_BAK = (outputs.logit_BAK.sigmoid() * quality_BA1).sqrt()
        return outputs.xyxy_BA4, score_BAK.masked_fill(~outputs.real_BA[..., None], 0)

    def _tower(self) -> nn.Sequential:
        layers: list[nn.Module] = []
        for _ in range(self.num_convs):
            layers += [
                nn.Conv2d(self.dim, self.dim, 3, padding=1, bias=False),
                group_norm(self.dim),
                nn.ReLU(inplace=True),
            ]
        return nn.Sequential(*layers)


def _centres(size: tuple[int, int], stride: int, *, device: torch.device) -> Tensor:
    y_H = (torch.arange(size[0], device=device) + 0.5) * stride
    x_W = (torch.arange(size[1], device=device) + 0.5) * stride
    y_HW, x_HW = torch.meshgrid(y_H, x_W, indexing="ij")
    return torch.stack([x_HW, y_HW], -1).flatten(0, 1)


def _flatten(map_BCHW: Tensor) -> Tensor:
    return map_BCHW.flatten(2).transpose(1, 2)
