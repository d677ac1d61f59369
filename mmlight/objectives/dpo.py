"""Direct preference optimisation: what a person liked is to become likelier than what not.

Shapes: B pairs of answers of this rank.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlight.errors import UserError
from mmlight.objectives.objective import Loss, mean_loss


@dataclass(frozen=True)
class PairLogP:
    """The log-probabilities of two answers to each prompt, summed over their tokens.

    Attributes:
        chosen_B: of the answers that were preferred.
        rejected_B: of the others.
        tokens_B: how many tokens the preferred answers have.
    """

    chosen_B: Tensor
    rejected_B: Tensor
    tokens_B: Tensor


class Dpo(nn.Module):
    """-log sigmoid of the difference of two rewards (arXiv 2305.18290, eq. 7).

    An answer's reward is ``beta * (log p(answer) - log p_reference(answer))``. Differences alone
    may grow while both answers get less likely, until the model says something else: `nll_weight`
    keeps the preferred one likely.

    Args:
        beta: how fast a reward grows as the model moves away from its reference; the smaller, the
            further it may go.
        nll_weight: weight of -log p(preferred answer) per token beside it (arXiv 2404.19733).

    Raises:
        UserError: a beta that is not above 0, or a weight below 0.
    """

    def __init__(self, *, beta: float = 0.1, nll_weight: float = 0.0) -> None:
        super().__init__()
        if not beta > 0:
            raise UserError(f"beta: {beta} must be above 0")
        if not nll_weight >= 0:
            raise UserError(f"nll_weight: {nll_weight} must be 0 or more")
        self.beta, self.nll_weight = beta, nll_weight

    def margins(self, model: PairLogP, reference: PairLogP) -> Tensor:
        """Return the reward of the chosen answer less that of the rejected one (B,)."""
        gained_B = model.chosen_B - reference.chosen_B
        return self.beta * (gained_B - (model.rejected_B - reference.rejected_B))

    def terms(self, model: PairLogP, reference: PairLogP) -> Tensor:
        """Return the loss of each pair (B,)."""
        terms_B = -F.logsigmoid(self.margins(model, reference))
        if not self.nll_weight:
            return terms_B
        return terms_B - self.nll_weight * model.chosen_B / model.tokens_B.clamp(min=1)

    def forward(self, model: PairLogP, reference: PairLogP, *, counted_B: Tensor) -> Loss:
        """Return the loss of the global batch; every rank calls it in every step.

        Args:
            model: what is trained.
            reference: what it began as.
            counted_B: bool, the pairs that count.
        """
        return mean_loss(torch.where(counted_B, self.terms(model, reference), 0.0), counted_B)
