"""The loss of a query head: each object is matched to one query, the others find nothing.

Shapes as in `mmlight.batch`: B samples of this rank, G boxes; Q queries, K classes, M pairs.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou, generalized_box_iou_loss

from mmlight.batch import Boxes
from mmlight.objectives.box_objective import (
    BoxObjective,
    check_weights,
    joined,
    of_samples,
    widened,
)
from mmlight.objectives.dense_boxes import paired_iou
from mmlight.objectives.objective import Loss
from mmlight.trainer.internals import FakeTensor

# Pairs of (query, object) numbers of one image, both (M,).
Match = tuple[Tensor, Tensor]


class BoxMatchLoss(BoxObjective):
    """RT-DETR's loss (arXiv 2304.08069): Hungarian matching, varifocal classes, L1 and GIoU boxes.

    Every decoder layer is matched anew and scored, as is the selection of queries; noised copies of
    the objects (denoising) are scored against what they were. Sums are divided by the number of
    objects, over all ranks.

    Args:
        class_weight: factor of the varifocal loss (arXiv 2008.13367, equation 2).
        l1_weight: factor of the L1 loss of (x, y, width, height) as parts of the image.
        giou_weight: factor of the GIoU loss.
        class_cost: weight of the class in matching.
        l1_cost: weight of the L1 distance in matching.
        giou_cost: weight of the GIoU in matching.
        focal_alpha: weight of what is no object in the varifocal loss.
        focal_gamma: how much certain answers are discounted in it, and in the cost.
    """

    kind = "query"

    def __init__(
        self,
        *,
        class_weight: float = 1.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
        class_cost: float = 2.0,
        l1_cost: float = 5.0,
        giou_cost: float = 2.0,
        focal_alpha: float = 0.75,
        focal_gamma: float = 2.0,
    ) -> None:
        super().__init__()
        check_weights(
            class_weight=class_weight,
            l1_weight=l1_weight,
            giou_weight=giou_weight,
            class_cost=class_cost,
            l1_cost=l1_cost,
            giou_cost=giou_cost,
        )
        self.weights = {"class": class_weight, "l1": l1_weight, "giou": giou_weight}
        self.costs = (class_cost, l1_cost, giou_cost)
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma

    def forward(
        self, outputs: Any, boxes: Boxes, *, counted_B: Tensor, canvas: tuple[int, int]
    ) -> Loss:
        """Return the loss; `outputs` are `mmlight.heads.box_query.QueryOutputs`."""
        mask_BG = boxes.mask_BG & counted_B[:, None]
        height, width = canvas
        scale_4 = boxes.xyxy_BG4.new_tensor([width, height, width, height])
        wanted_BG4 = box_convert(boxes.xyxy_BG4 / scale_4, "xyxy", "cxcywh")
        divisor = mask_BG.sum(1)
        layers: list[tuple[Tensor, Tensor, list[Match], float]] = []
        for logit_BQK, box_BQ4 in outputs.layers:
            matches = self.match(logit_BQK, box_BQ4, wanted_BG4, boxes.label_BG, mask_BG)
            layers.append((logit_BQK, box_BQ4, matches, 1.0))
        copies = outputs.noised
        if copies is not None:
            pairs = [
                _only_counted(pair, mask_G)
                for pair, mask_G in zip(copies.pairs, mask_BG, strict=True)
            ]
            for logit_BQK, box_BQ4 in copies.layers:
                layers.append((logit_BQK, box_BQ4, pairs, 1.0 / copies.num_groups))
        totals: dict[str, Tensor] = {}
        for number, (logit_BQK, box_BQ4, matches, share) in enumerate(layers):
            found = self._terms(
                logit_BQK, box_BQ4, wanted_BG4, boxes.label_BG, matches, counted_B=counted_B
            )
            for name, value in found.items():
                # The last decoder layer's terms are told apart: they say how good predictions are.
                key = name if number == len(outputs.layers) - 1 else f"{name}_auxiliary"
                totals[key] = totals.get(key, torch.zeros_like(value)) + share * value
        weights = {name: self.weights[name.removesuffix("_auxiliary")] for name in totals}
        return joined(totals, divisor=divisor, weights=weights)

    @torch.no_grad()
    def match(
        self,
        logit_BQK: Tensor,
        box_BQ4: Tensor,
        wanted_BG4: Tensor,
        label_BG: Tensor,
        mask_BG: Tensor,
    ) -> list[Match]:
        """Return for each image the cheapest assignment of its objects to queries.

        Args:
            logit_BQK: class logits.
            box_BQ4: (x, y, width, height) as parts of the image.
            wanted_BG4: the objects likewise.
            label_BG: their classes.
            mask_BG: which of them count.
        """
        if isinstance(logit_BQK, FakeTensor):  # without values; any assignment costs as much
            object_G = torch.arange(mask_BG.shape[1])
            return [(object_G, object_G)] * len(mask_BG)
        matches = []
        for logit_QK, box_Q4, wanted_G4, label_G, mask_G in zip(
            widened(logit_BQK), widened(box_BQ4), wanted_BG4, label_BG, mask_BG, strict=True
        ):
            place_M = mask_G.nonzero()[:, 0]
            cost_QM = self._cost(logit_QK, box_Q4, wanted_G4[place_M], label_G[place_M])
            # A query that is not finite is taken last, rather than stopping the run.
            cost_QM = torch.nan_to_num(cost_QM, nan=1e9, posinf=1e9, neginf=1e9)
            query, column = (
                torch.as_tensor(numbers, device=logit_QK.device)
                for numbers in linear_sum_assignment(cost_QM.cpu().numpy())
            )
            matches.append((query, place_M[column]))
        return matches

    def _cost(self, logit_QK: Tensor, box_Q4: Tensor, wanted_M4: Tensor, label_M: Tensor) -> Tensor:
        # Focal cost of the object's class (arXiv 2010.04159), with the alpha of 0.25 used there.
        chance_QM = logit_QK.sigmoid()[:, label_M]
        gamma = self.focal_gamma
        right_QM = 0.25 * (1 - chance_QM) ** gamma * -(chance_QM + 1e-8).log()
        wrong_QM = 0.75 * chance_QM**gamma * -(1 - chance_QM + 1e-8).log()
        giou_QM = generalized_box_iou(_corners(box_Q4), _corners(wanted_M4))
        class_cost, l1_cost, giou_cost = self.costs
        return (
            class_cost * (right_QM - wrong_QM)
            + l1_cost * torch.cdist(box_Q4, wanted_M4.to(box_Q4.dtype), p=1)
            - giou_cost * giou_QM
        )

    def _terms(
        self,
        logit_BQK: Tensor,
        box_BQ4: Tensor,
        wanted_BG4: Tensor,
        label_BG: Tensor,
        matches: Sequence[Match],
        *,
        counted_B: Tensor,
    ) -> dict[str, Tensor]:
        logit_BQK, size = widened(logit_BQK), len(logit_BQK)
        row_M = torch.cat([torch.full_like(query, row) for row, (query, _) in enumerate(matches)])
        query_M = torch.cat([query for query, _ in matches])
        object_M = torch.cat([place for _, place in matches])
        found_M4 = widened(box_BQ4)[row_M, query_M]
        wanted_M4 = wanted_BG4[row_M, object_M]
        iou_M = paired_iou(_corners(found_M4.detach()), _corners(wanted_M4))
        # Varifocal: an object's class aims at its box's overlap, every other class at zero.
        target_BQK = torch.zeros_like(logit_BQK)
        is_object_BQK = torch.zeros_like(logit_BQK)
        label_M = label_BG[row_M, object_M]
        target_BQK[row_M, query_M, label_M] = iou_M.to(target_BQK.dtype)
        is_object_BQK[row_M, query_M, label_M] = 1
        chance_BQK = logit_BQK.detach().sigmoid()
        discount_BQK = self.focal_alpha * chance_BQK**self.focal_gamma * (1 - is_object_BQK)
        class_BQK = F.binary_cross_entropy_with_logits(
            logit_BQK, target_BQK, weight=discount_BQK + target_BQK, reduction="none"
        )
        return {
            "class": class_BQK.masked_fill(~counted_B[:, None, None], 0).sum((1, 2)),
            "l1": of_samples((found_M4 - wanted_M4).abs().sum(1), row_M, num_samples=size),
            "giou": of_samples(_giou_loss(found_M4, wanted_M4), row_M, num_samples=size),
        }


def _giou_loss(found_M4: Tensor, wanted_M4: Tensor) -> Tensor:
    if isinstance(found_M4, FakeTensor):  # torchvision looks at values; few, whatever they are
        return (found_M4 - wanted_M4).square().sum(1)
    loss_M: Tensor = generalized_box_iou_loss(_corners(found_M4), _corners(wanted_M4))
    return loss_M


def _corners(box: Tensor) -> Tensor:
    return box_convert(box, "cxcywh", "xyxy")


def _only_counted(pair: Match, mask_G: Tensor) -> Match:
    query_M, place_M = pair
    keep_M = mask_G[place_M]
    return query_M[keep_M], place_M[keep_M]
