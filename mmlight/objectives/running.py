"""Maxima and log-sum-exp of similarities that come tile by tile.

Shapes: N rows (or columns) in all; a tile has R rows and S columns.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmlight.objectives.tiles import Tile, lowest


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

    def add(self, part: slice, total_n: Tensor) -> None:
        """Add sums of exponentials."""
        self.state_3N[2, part] += total_n

    def largest(self) -> Tensor:
        """Return the largest similarity (N)."""
        return torch.maximum(self.state_3N[0], self.state_3N[1])

    def log_sum_exp(self) -> Tensor:
        """Return log(sum(exp(similarity))) (N)."""
        return self.largest() + self.state_3N[2].log()

    def hits(self) -> Tensor:
        """Return where the most similar one is a positive (N), bool."""
        return self.state_3N[1] > self.state_3N[0]
