"""Cross-entropy over tokens: what masked and causal language models learn by.

Shapes: N sequences of this rank, L places, V tokens of the vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlight import comm
from mmlight.errors import UserError
from mmlight.objectives.objective import Loss, Terms


class TokenLoss(nn.Module):
    """The mean of -log p(token) over all counted tokens of all ranks, in nats.

    Every token weighs the same, whichever sequence and rank it is on.

    Args:
        label_smoothing: share of the target that is spread evenly over all tokens.

    Raises:
        UserError: a share outside of [0, 1).
    """

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise UserError(f"label_smoothing: {label_smoothing} must be at least 0 and below 1")
        self.label_smoothing = label_smoothing

    def forward(
        self,
        logits_NLV: Tensor,
        target_NL: Tensor,
        *,
        counted_NL: Tensor,
        weight_NL: Tensor | None = None,
    ) -> Loss:
        """Return the loss of the global batch; every rank calls it in every step.

        Args:
            logits_NLV: scores; float32 inside.
            target_NL: int64, the right tokens; any where not counted.
            counted_NL: bool.
            weight_NL: how much each counted token weighs, 0 or more; None weighs all alike.
        """
        terms_NL = self._terms(logits_NLV, target_NL, smoothing=self.label_smoothing)
        weight = counted_NL if weight_NL is None else torch.where(counted_NL, weight_NL, 0.0)
        # Masked by `where`, and not by choosing places: their number would depend on values.
        total_NL = torch.where(counted_NL, terms_NL * weight, 0.0)
        value = comm.mean_over_ranks(total_NL.sum(), weight.sum())
        return Loss(value, terms=(Terms(total_NL.detach(), weight),))

    def terms(self, logits_NLV: Tensor, target_NL: Tensor) -> Tensor:
        """Return -log p(token) of each place (N, L), float32 (float64 of float64)."""
        return self._terms(logits_NLV, target_NL, smoothing=0.0)

    @staticmethod
    def _terms(logits: Tensor, target: Tensor, *, smoothing: float) -> Tensor:
        with torch.autocast(logits.device.type, enabled=False):
            precise = logits if logits.dtype == torch.float64 else logits.float()
            terms = F.cross_entropy(
                precise.flatten(0, -2),
                target.flatten(),
                reduction="none",
                label_smoothing=smoothing,
            )
        return terms.view(target.shape)
