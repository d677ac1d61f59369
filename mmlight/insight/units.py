"""The parts of a sample that an explanation ranks: tokens, patches, pieces of a spectrogram.

Shapes: R rows and K columns of a canvas (`mmlight.encoders.canvas`), U units, N versions.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmlight.encoders.canvas import Canvas, TokenGrid
from mmlight.encoders.encoder import Encoder
from mmlight.modality import Modality

# Most rows and columns of units where the network has no patches of its own.
_MOST: dict[Modality, tuple[int, int]] = {"image": (14, 14), "text": (1, 512), "audio": (8, 16)}
_MOST_OF_WAVE = 32


@dataclass(frozen=True)
class Tokens:
    """How a caption was cut.

    Attributes:
        pieces: the characters that each token stands for; empty for start, end and padding.
        blank_id: the token that stands for nothing, put in the place of others.
    """

    pieces: list[str]
    blank_id: int


@dataclass(frozen=True)
class Units:
    """Which unit each place of the canvas belongs to.

    Attributes:
        number_RK: int64, -1 where nothing is ever taken away: padding, start and end tokens.
        count: number of units U.
    """

    number_RK: Tensor
    count: int

    def sums(self, map_RK: Tensor) -> Tensor:
        """Return the sum (U,) of a map over each unit."""
        inside_RK = self.number_RK >= 0
        sums_U = map_RK.new_zeros(self.count)
        return sums_U.index_add(0, self.number_RK[inside_RK], map_RK[inside_RK])

    def means(self, map_RK: Tensor) -> Tensor:
        """Return the mean (U,) of a map over each unit; cells differ in size by a row or column."""
        return self.sums(map_RK) / self.sums(torch.ones_like(map_RK))

    def paint(self, values_U: np.ndarray) -> np.ndarray:
        """Return the canvas (R, K) with each unit's value; NaN where there is none."""
        number_RK = self.number_RK.cpu().numpy()
        return np.where(number_RK >= 0, np.append(values_U, np.nan)[number_RK], np.nan)

    def places(self, chosen_NU: Tensor) -> Tensor:
        """Return bool (N, R, K), True in the places of the chosen units."""
        none_N1 = chosen_NU.new_zeros(len(chosen_NU), 1)
        return torch.cat([chosen_NU, none_N1], 1)[:, self.number_RK]  # -1 is the last column


def units_of(encoder: Encoder, canvas: Canvas, *, tokens: Tokens | None) -> Units:
    """Cut a canvas into units: tokens, a transformer's own patches, or cells of a grid.

    Args:
        encoder: an encoder that has just read the canvas.
        canvas: what it read of one sample.
        tokens: how a caption was cut; None for other modalities.
    """
    size = (canvas.rows, canvas.columns)
    device = canvas.values.device
    column_K = torch.arange(canvas.columns, device=device)
    if tokens is not None:
        assert canvas.columns == len(tokens.pieces), "pieces are not those of this caption"
        stands_K = torch.tensor([bool(piece.strip()) for piece in tokens.pieces], device=device)
        return _dense(torch.where(stands_K, column_K, -1).unsqueeze(0))
    grid = encoder.token_grid(canvas)
    if grid is not None and grid.rows > 1:
        (rows, columns), covers = (grid.rows, grid.columns), canvas.covered
    else:
        most = _MOST[encoder.modality] if canvas.rows > 1 else (1, _MOST_OF_WAVE)
        real = int(canvas.real_B[0])
        covers = (canvas.rows, min(real, canvas.covered_columns))
        rows, columns = (min(a, b) for a, b in zip(most, covers, strict=True))
    row_R = torch.arange(size[0], device=device)
    number_RK = (row_R * rows // covers[0]).unsqueeze(1) * columns + column_K * columns // covers[1]
    read_K = (column_K < covers[1]) & (column_K < canvas.real_B[0])
    return _dense(torch.where(read_K, number_RK, -1))


def lay_over(map_RK: Tensor, canvas: Canvas, *, smooth: bool) -> Tensor:
    """Return a coarse map at the canvas' size (R, K); zero where the network does not look.

    Args:
        map_RK: the coarse map, which lies over all that the network covers.
        canvas: what the network read.
        smooth: interpolate, for a CNN's map; patches have edges.
    """
    mode = "bilinear" if smooth else "nearest-exact"
    wide = F.interpolate(
        map_RK[None, None], size=canvas.covered, mode=mode, align_corners=False if smooth else None
    )[0, 0]
    cut = wide[: canvas.rows, : canvas.columns]
    return F.pad(cut, (0, canvas.columns - cut.shape[1], 0, canvas.rows - cut.shape[0]))


def lay_tokens_over(tokens_L: Tensor, grid: TokenGrid, canvas: Canvas) -> Tensor:
    """Return a value per token (L,) at the canvas' size (R, K).

    Args:
        tokens_L: the values; those of class tokens are left out.
        grid: where the tokens lie.
        canvas: what the network read.
    """
    map_RK = tokens_L[grid.prefix :].unflatten(0, (grid.rows, grid.columns))
    return lay_over(map_RK, canvas, smooth=False)


def _dense(number_RK: Tensor) -> Units:
    """Number units from 0 without gaps, in the order of the grid."""
    found, place_RK = number_RK.unique(return_inverse=True)
    has_none = bool(len(found)) and int(found[0]) < 0
    return Units(place_RK - int(has_none), len(found) - int(has_none))
