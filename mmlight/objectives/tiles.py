"""Products of features tile by tile: a matrix of similarities of which only a tile ever exists.

Shapes as in `mmlight.batch`: B samples of this rank, G samples of all ranks, D joint width; C
columns held at a time, R x S samples of a tile; N rows (or columns) in all.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mmlight.objectives.exchange import Ranks
from mmlight.objectives.pairs import Samples


@dataclass(frozen=True)
class Tiling:
    """How a loss goes over the similarities.

    Attributes:
        ranks: how this rank's rows meet the columns of others.
        size: a tile has about size * size similarities.
        dtype: what features are multiplied in; None is their own dtype.
    """

    ranks: Ranks
    size: int
    dtype: torch.dtype | None


@dataclass(frozen=True)
class Tile:
    """Where a tile lies.

    Attributes:
        rows: among this rank's rows.
        columns: among the columns held.
        far: the same columns among all.
        own: the diagonal of the tile on which rows meet their own columns; may be outside.
    """

    rows: slice
    columns: slice
    far: slice
    own: int

    @property
    def height(self) -> int:
        """Number of rows, R."""
        return int(self.rows.stop - self.rows.start)

    @property
    def width(self) -> int:
        """Number of columns, S."""
        return int(self.columns.stop - self.columns.start)

    @property
    def own_rows(self) -> slice:
        """Which rows of the tile meet their own columns."""
        start = min(max(0, -self.own), self.height)
        return slice(start, max(start, min(self.height, self.width - self.own)))

    @property
    def own_columns(self) -> slice:
        """The columns that `own_rows` meet."""
        rows = self.own_rows
        return slice(rows.start + self.own, rows.stop + self.own)


def lowest(dtype: torch.dtype) -> float:
    """Return a number that no similarity falls below; sums of two stay finite.

    Not -inf: the difference of two would be NaN.
    """
    return torch.finfo(dtype).min / 4


class Similarities:
    """Tiles of row @ column.T for the samples of a pair, in memory that is used again.

    Rows and columns of samples that do not count are very low.

    Args:
        row_BD: this rank's features, times whatever they are to be multiplied by (0-d `scale`).
        scale: 0-d.
        samples: which samples count, and which are positives.
        tiling: size and precision.
    """

    def __init__(self, row_BD: Tensor, scale: Tensor, *, samples: Samples, tiling: Tiling) -> None:
        self._row_BD, self._scale = row_BD, scale
        self._samples, self._tiling = samples, tiling
        area = min(tiling.size**2, len(row_BD) * len(samples.valid_G))
        self._one, self._two = row_BD.new_empty(area), row_BD.new_empty(area)
        bias_G = torch.zeros_like(samples.valid_G, dtype=row_BD.dtype)
        self._bias_G = bias_G.masked_fill_(~samples.valid_G, lowest(row_BD.dtype))
        # Asking costs nothing on a CPU; elsewhere the host would have to wait for the device.
        self._masked = row_BD.device.type != "cpu" or not bool(samples.valid_G.all())

    def strips(self, num_columns: int) -> Iterator[slice]:
        """Yield the rows of one strip of tiles after another."""
        height = max(1, self._tiling.size**2 // self._width(num_columns))
        for start in range(0, len(self._row_BD), height):
            yield slice(start, min(start + height, len(self._row_BD)))

    def tiles(self, rows: slice, num_columns: int, *, first: int) -> Iterator[Tile]:
        """Yield the tiles of a strip.

        Args:
            rows: of `strips`.
            num_columns: columns held.
            first: number of the first of them among all columns.
        """
        width = self._width(num_columns)
        for start in range(0, num_columns, width):
            stop = min(start + width, num_columns)
            yield Tile(
                rows=rows,
                columns=slice(start, stop),
                far=slice(first + start, first + stop),
                own=self._samples.start + rows.start - first - start,
            )

    def scaled(self, rows: slice) -> Tensor:
        """Return features of `rows` times the scale (R, D)."""
        return self._row_BD[rows] * self._scale

    def logits(self, strip_RD: Tensor, column_SD: Tensor, tile: Tile) -> Tensor:
        """Return the products of a tile (R, S); the next call overwrites them."""
        logits_RS = self._view(self._one, tile)
        dtype = self._tiling.dtype
        if dtype is None:
            torch.mm(strip_RD, column_SD.T, out=logits_RS)
        else:
            logits_RS.copy_(strip_RD.to(dtype) @ column_SD.to(dtype).T)
        if self._masked:
            logits_RS += self._bias_G[tile.far]
            logits_RS += self._samples.local(self._bias_G)[tile.rows, None]
        return logits_RS

    def spare(self, tile: Tile) -> Tensor:
        """Return memory of a tile's shape (R, S), holding anything."""
        return self._view(self._two, tile)

    def positive(self, tile: Tile) -> Tensor | None:
        """Return which pairs of a tile are positives (R, S); None where only own samples are."""
        group_G = self._samples.group_G
        if group_G is None:
            return None
        group_R1 = self._samples.local(group_G)[tile.rows, None]
        # -1 marks samples that do not count.
        return (group_R1 == group_G[tile.far]) & (group_R1 >= 0)

    def negate_positives(self, x_RS: Tensor, tile: Tile) -> None:
        """Change the sign of what belongs to positives that count, in place (uses `spare`)."""
        positive_RS = self.positive(tile)
        if positive_RS is None:
            valid_R = self._samples.local(self._samples.valid_G)[tile.rows][tile.own_rows]
            x_RS.diagonal(tile.own).mul_(torch.where(valid_R, -1.0, 1.0))
        else:
            x_RS *= torch.mul(positive_RS, -2.0, out=self.spare(tile)).add_(1.0)

    def add_product(self, sum_XD: Tensor, weight_XY: Tensor, feature_YD: Tensor) -> None:
        """Add weight @ feature to `sum_XD`, multiplied in the tiles' precision."""
        dtype = self._tiling.dtype
        if dtype is None:
            sum_XD.addmm_(weight_XY, feature_YD)
        else:
            sum_XD += weight_XY.to(dtype) @ feature_YD.to(dtype)

    def add_row_grads(
        self, rows: slice, strip_grad_RD: Tensor, row_grad_BD: Tensor, scale_grad: Tensor
    ) -> None:
        """Add the gradients of `rows` and of the scale to what is known of them.

        Args:
            rows: of `strips`.
            strip_grad_RD: products of logits' gradients and columns; is overwritten.
            row_grad_BD: is added to.
            scale_grad: 0-d, is added to.
        """
        scale_grad += (self._row_BD[rows] * strip_grad_RD).sum()
        row_grad_BD[rows] += strip_grad_RD.mul_(self._scale)

    def _width(self, num_columns: int) -> int:
        # Whole rows where they are short: fewer, longer products (at 1,024 columns 256 rows).
        size = self._tiling.size
        return num_columns if num_columns <= 2 * size else size

    def _view(self, memory: Tensor, tile: Tile) -> Tensor:
        return memory[: tile.height * tile.width].view(tile.height, tile.width)


@dataclass(frozen=True)
class Maxima:
    """The largest similarity with a negative and with a positive, `lowest` where there is none."""

    negative_N: Tensor
    positive_N: Tensor


def maxima(
    logits_RS: Tensor, tile: Tile, *, positive_RS: Tensor | None, spare_RS: Tensor
) -> tuple[Maxima, Maxima]:
    """Return the maxima of each row and of each column of a tile.

    Negatives are kept apart so that a tie of a positive with a negative is no hit: where a model's
    features have collapsed, all similarities are equal.

    Args:
        logits_RS: left as it is.
        tile: where the tile lies.
        positive_RS: which are positives; None where only own samples are.
        spare_RS: is overwritten.
    """
    low = lowest(logits_RS.dtype)
    if positive_RS is not None:
        spare_RS.copy_(logits_RS).masked_fill_(positive_RS, low)
        negatives = [spare_RS.amax(dim) for dim in (1, 0)]
        spare_RS.copy_(logits_RS).masked_fill_(~positive_RS, low)
        rows, columns = (
            Maxima(negative, spare_RS.amax(dim))
            for dim, negative in zip((1, 0), negatives, strict=True)
        )
        return rows, columns
    diagonal = logits_RS.diagonal(tile.own)
    kept = diagonal.clone()
    diagonal.fill_(low)
    rows, columns = (
        Maxima(negative, torch.full_like(negative, low))
        for negative in (logits_RS.amax(1), logits_RS.amax(0))
    )
    diagonal.copy_(kept)
    rows.positive_N[tile.own_rows] = kept
    columns.positive_N[tile.own_columns] = kept
    return rows, columns


@dataclass(frozen=True)
class Running:
    """What is known of N rows (or columns) after some tiles (online softmax, arXiv 1805.02867).

    Attributes:
        state_3N: largest negative, largest positive, and the sum of exp(similarity - the largest
            of the two). One tensor, so that it travels as one message.
    """

    state_3N: Tensor

    @classmethod
    def start(cls, like_N: Tensor, size: int) -> "Running":
        """Return the state before the first tile, on the device and in the dtype of `like_N`."""
        state_3N = like_N.new_full((3, size), lowest(like_N.dtype))
        state_3N[2] = 0.0
        return cls(state_3N)

    def raise_to(self, part: slice, seen: Maxima) -> Tensor:
        """Take in maxima of some rows; return what to subtract before exponentials are added."""
        negative, positive, total = self.state_3N[:, part]
        before = torch.maximum(negative, positive)
        torch.maximum(negative, seen.negative_N, out=negative)
        torch.maximum(positive, seen.positive_N, out=positive)
        largest = torch.maximum(negative, positive)
        total *= (before - largest).exp_()
        return largest

    def largest(self) -> Tensor:
        """Return the largest similarity (N)."""
        return torch.maximum(self.state_3N[0], self.state_3N[1])

    def log_sum_exp(self) -> Tensor:
        """Return log(sum(exp(similarity))) (N)."""
        return self.largest() + self.state_3N[2].log()

    def hits(self) -> Tensor:
        """Return where the most similar one is a positive (N), bool."""
        return self.state_3N[1] > self.state_3N[0]
