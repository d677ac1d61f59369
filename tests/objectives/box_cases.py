"""Predictions and objects for the tests of detection losses."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmlight.batch import Boxes

CANVAS = (64, 96)
STRIDES = (8, 16, 32)


def some_boxes(*counts: int, seed: int = 0) -> Boxes:
    g = torch.Generator().manual_seed(seed)
    most = max(counts)
    low = torch.rand(len(counts), most, 2, generator=g, dtype=torch.float64) * 50
    side = 6 + torch.rand(len(counts), most, 2, generator=g, dtype=torch.float64) * 40
    return Boxes(
        xyxy_BG4=torch.cat([low, low + side], -1),
        label_BG=torch.randint(0, 3, (len(counts), most), generator=g),
        mask_BG=torch.arange(most) < torch.tensor(counts)[:, None],
        present_B=torch.ones(len(counts), dtype=torch.bool),
    )


@dataclass
class Dense:
    logit_BAK: Tensor
    xyxy_BA4: Tensor
    quality_BA: Tensor
    point_A2: Tensor
    stride_A: Tensor
    real_BA: Tensor


def dense_outputs(size: int, *, seed: int = 1) -> Dense:
    g = torch.Generator().manual_seed(seed)
    points, strides = [], []
    for stride in STRIDES:
        y, x = torch.meshgrid(
            torch.arange(CANVAS[0] // stride), torch.arange(CANVAS[1] // stride), indexing="ij"
        )
        points.append((torch.stack([x, y], -1).flatten(0, 1) + 0.5).double() * stride)
        strides.append(torch.full((len(points[-1]),), stride))
    point_A2, stride_A = torch.cat(points), torch.cat(strides)
    count = len(point_A2)

    def draw(*shape: int) -> Tensor:
        return torch.randn(size, count, *shape, generator=g, dtype=torch.float64)

    reach = draw(4).exp() * stride_A[:, None] * 2
    return Dense(
        logit_BAK=draw(3).requires_grad_(),
        xyxy_BA4=torch.cat(
            [point_A2 - reach[..., :2], point_A2 + reach[..., 2:]], -1
        ).requires_grad_(),
        quality_BA=draw().requires_grad_(),
        point_A2=point_A2,
        stride_A=stride_A,
        real_BA=torch.ones(size, count, dtype=torch.bool),
    )


@dataclass
class Copies:
    layers: list[tuple[Tensor, Tensor]]
    pairs: list[tuple[Tensor, Tensor]]
    num_groups: int


@dataclass
class Query:
    layers: list[tuple[Tensor, Tensor]]
    noised: Copies | None


def query_outputs(
    boxes: Boxes, *, layers: int = 3, queries: int = 9, groups: int = 0, seed: int = 1
) -> Query:
    """Layers of the selection and of a decoder; with groups, copies of the objects, too."""
    g = torch.Generator().manual_seed(seed)
    size, most = boxes.mask_BG.shape

    def layer(count: int) -> tuple[Tensor, Tensor]:
        logit = torch.randn(size, count, 3, generator=g, dtype=torch.float64)
        box = torch.rand(size, count, 4, generator=g, dtype=torch.float64) * 0.4 + 0.1
        return logit.requires_grad_(), box.requires_grad_()

    copies = None
    if groups:
        pairs = []
        for count in boxes.mask_BG.sum(1).tolist():
            place = torch.arange(count)
            numbers = [place + 2 * most * group for group in range(groups)]
            pairs.append((torch.cat(numbers), place.repeat(groups)))
        copies = Copies([layer(2 * most * groups) for _ in range(layers - 1)], pairs, groups)
    return Query([layer(queries) for _ in range(layers)], copies)
