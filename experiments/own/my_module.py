"""A class of one's own: the focal loss, which looks away from what is right already.

An experiment names it as ``my_module.Focal`` and begins with ``import: my_module``; other commands
take ``--import my_module``. The module is found in the working directory.
"""

import torch
from torch import Tensor

from mmlight.objectives.labels import CrossEntropy


class Focal(CrossEntropy):
    """Cross-entropy times ``(1 - p) ** gamma`` (arXiv 1708.02002).

    What stands here is shown by ``mmlight fit --model.objective.help my_module.Focal``.

    Args:
        gamma: how little samples count that are right already; 0 is plain cross-entropy.
        label_smoothing: as in `CrossEntropy`.
    """

    def __init__(self, *, gamma: float = 2.0, label_smoothing: float = 0.0) -> None:
        super().__init__(label_smoothing=label_smoothing)
        self.gamma = gamma

    def terms(self, logits_BK: Tensor, target_BK: Tensor) -> tuple[Tensor, Tensor]:
        """Return each sample's loss, and what the sum of them is divided by."""
        losses_B, weights_B = super().terms(logits_BK, target_BK)
        right_B = (torch.softmax(logits_BK, dim=1) * target_BK).sum(1)
        return losses_B * (1 - right_B) ** self.gamma, weights_B
