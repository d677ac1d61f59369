"""Where a place of a sequence stands in a picture.

Shapes: N sequences, L places, D features.
"""

import torch
from torch import Tensor, nn

from mmlight.errors import UserError


class GridPositions(nn.Module):
    """A learned vector for each row and each column of a grid (DALL-E, arXiv 2102.12092).

    By the number of a place alone a model has to learn for each place anew which one lies above.

    Args:
        dim: D.
        first: the place of the grid's first cell; the others follow row by row.
        height: rows.
        width: columns.

    Raises:
        UserError: values out of range.
    """

    def __init__(self, dim: int, *, first: int, height: int, width: int) -> None:
        super().__init__()
        if first < 0 or height < 1 or width < 1:
            raise UserError(
                f"grid: {height} x {width} from place {first} on; sizes are 1 or more, places 0 "
                "or more"
            )
        self.first, self.height, self.width = first, height, width
        self.rows, self.columns = nn.Embedding(height, dim), nn.Embedding(width, dim)

    def forward(self, position_NL: Tensor) -> Tensor:
        """Return what is added to each place (N, L, D): nothing outside of the grid."""
        cell_NL = position_NL - self.first
        is_cell_NL = (cell_NL >= 0) & (cell_NL < self.height * self.width)
        cell_NL = torch.where(is_cell_NL, cell_NL, 0)
        row_NL = torch.div(cell_NL, self.width, rounding_mode="floor")
        added_NLD = self.rows(row_NL) + self.columns(cell_NL % self.width)
        out_NLD: Tensor = added_NLD * is_cell_NL[..., None]
        return out_NLD
