"""Losses of classification: one class per sample, or any number of them.

Shapes as in `mmlight.batch`: B samples of this rank, K classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlight.errors import UserError
from mmlight.objectives.objective import Loss, mean_loss

ClassWeights = list[float] | Literal["balanced"] | None


class LabelObjective(nn.Module, ABC):
    """A loss of logits against targets, averaged over all ranks' samples.

    Args:
        label_smoothing: how much targets are smoothed.
        class_weights: a factor for each class, or ``balanced``: the inverse of the class's share of
            the training labels, 1 on average over the samples.

    Attributes:
        multi_label: whether a sample may have several labels.
    """

    multi_label: ClassVar[bool]
    weight_K: Tensor

    def __init__(self, *, label_smoothing: float = 0.0, class_weights: ClassWeights = None) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise UserError(f"objective.label_smoothing: {label_smoothing} must be in [0, 1)")
        if isinstance(class_weights, list) and not all(w > 0 for w in class_weights):
            raise UserError(f"objective.class_weights: {class_weights} must all be above 0")
        self.label_smoothing = label_smoothing
        self.class_weights = class_weights

    @property
    def needs_counts(self) -> bool:
        """Whether `build` needs the number of training labels of each class."""
        return self.class_weights == "balanced"

    def build(self, num_classes: int, *, counts_K: Sequence[int] | None = None) -> None:
        """Create the weights.

        Args:
            num_classes: K.
            counts_K: training labels of each class, for balanced weights; None where they are not
                known, because a checkpoint brings the weights.

        Raises:
            UserError: another number of weights than classes, or a class without a label.
        """
        weights = [1.0] * num_classes
        if isinstance(self.class_weights, list):
            weights = self.class_weights
        elif self.needs_counts and counts_K is not None:
            if min(counts_K) == 0:
                raise UserError(
                    f"objective.class_weights: balanced, but class {list(counts_K).index(0)} has "
                    "no training sample; give the weights as a list"
                )
            weights = [sum(counts_K) / (num_classes * count) for count in counts_K]
        if len(weights) != num_classes:
            raise UserError(
                f"objective.class_weights: {len(weights)} weights for {num_classes} classes"
            )
        self.register_buffer("weight_K", torch.tensor(weights), persistent=self.needs_counts)

    def forward(self, logits_BK: Tensor, target_BK: Tensor, *, counted_B: Tensor) -> Loss:
        """Return the loss.

        Every rank calls it in every step.

        Args:
            logits_BK: the model's answers.
            target_BK: 1 for a label that the sample has, 0 otherwise; mixtures lie between.
            counted_B: bool, samples that have labels; the others do not count.
        """
        if logits_BK.dtype in (torch.float16, torch.bfloat16):
            logits_BK = logits_BK.float()
        parts_B, weights_B = self.terms(logits_BK, target_BK.to(logits_BK.dtype))
        # Masked by `where`: a sample without labels may have an infinite loss.
        parts_B = torch.where(counted_B, parts_B, parts_B.new_zeros(()))
        weights_B = weights_B * counted_B.to(parts_B.dtype)
        return mean_loss(parts_B, weights_B, least=torch.finfo(weights_B.dtype).tiny)

    @abstractmethod
    def terms(self, logits_BK: Tensor, target_BK: Tensor) -> tuple[Tensor, Tensor]:
        """Return each sample's loss, and what the sum of them is divided by."""


class CrossEntropy(LabelObjective):
    """Softmax cross-entropy, weighted as in torch: by the classes' weights, which also divide.

    Args:
        label_smoothing: share of the target that is spread over all classes (arXiv 1512.00567).
        class_weights: a factor for each class, or ``balanced``.
    """

    multi_label = False

    def terms(self, logits_BK: Tensor, target_BK: Tensor) -> tuple[Tensor, Tensor]:
        """Return -sum_k w_k t_k log p_k, and the weight of the sample's own class."""
        smooth = self.label_smoothing
        smoothed_BK = (1 - smooth) * target_BK + smooth / target_BK.shape[1]
        log_BK = F.log_softmax(logits_BK, dim=1)
        return -(smoothed_BK * self.weight_K * log_BK).sum(1), (target_BK * self.weight_K).sum(1)


class BinaryCrossEntropy(LabelObjective):
    """Sigmoid cross-entropy of each class on its own, averaged over classes: for several labels.

    Args:
        label_smoothing: targets become ``t (1 - s) + s / 2``.
        class_weights: a factor for each class's term, or ``balanced``.
    """

    multi_label = True

    def terms(self, logits_BK: Tensor, target_BK: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean over classes, and 1."""
        smoothed_BK = target_BK * (1 - self.label_smoothing) + self.label_smoothing / 2
        losses_BK = F.binary_cross_entropy_with_logits(
            logits_BK, smoothed_BK, weight=self.weight_K, reduction="none"
        )
        return losses_BK.mean(1), torch.ones_like(losses_BK[:, 0])
