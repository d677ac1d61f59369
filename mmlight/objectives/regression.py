"""Losses of numbers: squared, absolute, and Huber's between them.

Shapes as in `mmlight.batch`: B samples of this rank, K numbers of each.
"""

from abc import ABC, abstractmethod

import torch.nn.functional as F
from torch import Tensor, nn

from mmlight.errors import UserError
from mmlight.objectives.objective import Loss, mean_loss


class NumberObjective(nn.Module, ABC):
    """The mean over all numbers of the global batch whose target is known."""

    def forward(self, value_BK: Tensor, target_BK: Tensor, *, counted_B: Tensor) -> Loss:
        """Return the loss; every rank calls it in every step.

        Args:
            value_BK: what the model says; half precision is taken as float32.
            target_BK: what is right.
            counted_B: bool, samples whose target is known; the others do not count.
        """
        if value_BK.dtype != target_BK.dtype:
            value_BK = value_BK.float()
        # What is not known may be anything, whose gradient would be NaN: it is taken as right.
        right_BK = target_BK.to(value_BK.dtype).where(counted_B[:, None], value_BK.detach())
        parts_BK = self.terms(value_BK, right_BK)
        return mean_loss(parts_BK.sum(1), counted_B * value_BK.shape[1])

    @abstractmethod
    def terms(self, value_BK: Tensor, target_BK: Tensor) -> Tensor:
        """Return the loss of each number, (B, K)."""


class SquaredError(NumberObjective):
    """``(value - target) ** 2``: the mean is what is learned."""

    def terms(self, value_BK: Tensor, target_BK: Tensor) -> Tensor:
        """Return the squares of the differences."""
        return F.mse_loss(value_BK, target_BK, reduction="none")


class AbsoluteError(NumberObjective):
    """``|value - target|``: the median is what is learned."""

    def terms(self, value_BK: Tensor, target_BK: Tensor) -> Tensor:
        """Return the differences without their sign."""
        return F.l1_loss(value_BK, target_BK, reduction="none")


class Huber(NumberObjective):
    """Half the square of differences up to `delta`, beyond it linear (Huber, 1964).

    Args:
        delta: where it becomes linear, in standard deviations where targets are standardised.
    """

    def __init__(self, *, delta: float = 1.0) -> None:
        super().__init__()
        if not delta > 0:
            raise UserError(f"model.objective.delta: {delta} must be above 0")
        self.delta = delta

    def terms(self, value_BK: Tensor, target_BK: Tensor) -> Tensor:
        """Return Huber's loss of each difference."""
        return F.huber_loss(value_BK, target_BK, reduction="none", delta=self.delta)
