"""Maps of equal width at the strides that a detection head wants, from what a tower has to offer.

Shapes as in `mmlight.batch`: B samples, C channels, H and W positions of a map.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlight.errors import UserError


def group_norm(dim: int) -> nn.GroupNorm:
    """Return a group norm of 8 channels a group; it doesn't mind small batches."""
    return nn.GroupNorm(max(1, dim // 8), dim)


def real_masks(
    area_B2: Tensor, sizes: Sequence[tuple[int, int]], strides: Sequence[int]
) -> list[Tensor]:
    """Return a bool mask (B, H, W) for each map: True where a position's centre is real image.

    Args:
        area_B2: height and width of the real pixels, see `mmlight.batch.View`.
        sizes: height and width of each map.
        strides: stride of each map.
    """
    masks = []
    for (height, width), stride in zip(sizes, strides, strict=True):
        row_H = (torch.arange(height, device=area_B2.device) + 0.5) * stride
        column_W = (torch.arange(width, device=area_B2.device) + 0.5) * stride
        is_row_BH1 = (row_H < area_B2[:, :1])[:, :, None]
        is_column_B1W = (column_W < area_B2[:, 1:])[:, None, :]
        masks.append(is_row_BH1 & is_column_B1W)
    return masks


def erase_padding(
    maps: Sequence[Tensor], area_B2: Tensor, strides: Sequence[int]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return maps with zeros where there is padding, and their masks.

    Args:
        maps: (B, C, H, W) each.
        area_B2: height and width of the real pixels.
        strides: stride of each map.
    """
    sizes = [(int(part.shape[2]), int(part.shape[3])) for part in maps]
    masks = real_masks(area_B2, sizes, strides)
    return [p.masked_fill(~m[:, None], 0) for p, m in zip(maps, masks, strict=True)], masks


class FeaturePyramid(nn.Module):
    """A feature pyramid network (arXiv 1612.03144), or ViTDet's simple one (arXiv 2203.16527).

    Several maps are joined from the coarsest to the finest; strides beyond the coarsest are made by
    strided convolutions. From the only map of a plain ViT, finer ones are made by transposed
    convolutions and coarser ones by pooling, each for itself.

    Args:
        in_dims: channels of the tower's maps, finest first.
        in_strides: their strides.
        strides: strides wanted, finest first, each twice the one before.
        dim: channels of the maps returned.

    Attributes:
        uses: strides of the maps that `forward` takes.

    Raises:
        UserError: strides that cannot be made of these maps.
    """

    def __init__(
        self,
        in_dims: Sequence[int],
        *,
        in_strides: Sequence[int],
        strides: Sequence[int],
        dim: int,
    ) -> None:
        super().__init__()
        if not strides or any(b != 2 * a for a, b in pairwise(strides)):
            raise UserError(
                f"model.head strides must double from one to the next, not {list(strides)}"
            )
        if len(in_dims) == 1:
            self.uses = tuple(in_strides)
            self.levels = nn.ModuleList(
                _resampler(in_dims[0], in_strides[0], stride, dim=dim) for stride in strides
            )
            self.is_simple = True
            return
        self.is_simple = False
        of_stride = dict(zip(in_strides, in_dims, strict=True))
        self.uses = tuple(stride for stride in strides if stride in of_stride)
        if tuple(strides[: len(self.uses)]) != self.uses or not self.uses:
            raise UserError(
                f"model.head strides {list(strides)}: the tower has maps of strides "
                f"{list(in_strides)}; begin with one of these"
            )
        self.lateral = nn.ModuleList(nn.Conv2d(of_stride[stride], dim, 1) for stride in self.uses)
        self.output = nn.ModuleList(
            nn.Sequential(nn.Conv2d(dim, dim, 3, padding=1), group_norm(dim)) for _ in self.uses
        )
        self.coarser = nn.ModuleList(
            nn.Sequential(nn.Conv2d(dim, dim, 3, stride=2, padding=1), group_norm(dim))
            for _ in range(len(strides) - len(self.uses))
        )

    def forward(self, maps: Sequence[Tensor], area_B2: Tensor) -> list[Tensor]:
        """Return (B, `dim`, H, W) for each of `strides`.

        Args:
            maps: the tower's maps of the strides `uses`, finest first.
            area_B2: height and width of the real pixels; padding is erased.
        """
        clean, _ = erase_padding(maps, area_B2, self.uses)
        if self.is_simple:
            return [level(clean[0]) for level in self.levels]
        merged = [layer(part) for layer, part in zip(self.lateral, clean, strict=True)]
        for level in range(len(merged) - 2, -1, -1):
            size = merged[level].shape[2:]
            merged[level] = merged[level] + F.interpolate(merged[level + 1], size=size)
        made = [layer(part) for layer, part in zip(self.output, merged, strict=True)]
        for layer in self.coarser:
            made.append(layer(F.relu(made[-1])))
        return made


def _resampler(in_dim: int, in_stride: int, stride: int, *, dim: int) -> nn.Module:
    power = math.log2(in_stride / stride)
    if power != round(power):
        raise UserError(
            f"model.head strides: {stride} is no power of two away from the tower's {in_stride}; "
            f"use such as {in_stride // 2}, {in_stride}, {in_stride * 2}"
        )
    layers: list[nn.Module] = []
    width = in_dim
    for _ in range(max(0, round(power))):
        half = max(dim, width // 2)
        layers += [nn.ConvTranspose2d(width, half, 2, stride=2), group_norm(half), nn.GELU()]
        width = half
    if power < 0:
        layers.append(nn.MaxPool2d(2 ** round(-power), ceil_mode=True))
    layers += [nn.Conv2d(width, dim, 1), group_norm(dim)]
    layers += [nn.Conv2d(dim, dim, 3, padding=1), group_norm(dim)]
    return nn.Sequential(*layers)
