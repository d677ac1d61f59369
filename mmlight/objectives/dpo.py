"""Direct preference optimisation: what a person liked is to become likelier than what not.

Shapes: B pairs of answers of this rank.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlight import comm
from mmlight.errors import UserError
from mmlight.objectives.objective import Loss


@dataclass(frozen=True)
class PairLogP:
    """The log-probabilities of two answers to each prompt, summed over their tokens.

    Attributes:
        chosen_B: of the answers that were preferred.
        rejected_B: of the others.
    """

    chosen_B: Tensor
    rejected_B: Tensor


class Dpo(nn.Module):
    """-log sigmoid of the difference of two rewards (arXiv 2305.18290, eq. 7).

    An answer's reward is ``beta * (log p(answer) - log p_reference(answer))``.

    Args:
        beta: how fast a reward grows as the model moves away from its reference; the smaller, the
            further it may go.

    Raises:
        UserError: a beta that is not above 0.
    """

    def __init__(self, *, beta: float = 0.1) -> None:
        super().__init__()
        if not beta > 0:
            raise UserError(f"beta: {beta} must be above 0")
        self.beta = beta

    def margins(self, model: PairLogP, reference: PairLogP) -> Tensor:
        """Return the reward of the chosen answer less that of the rejected one (B,)."""
        gained_B = model.chosen_B - reference.chosen_B
        return self.beta * (gained_B - (model.rejected_B - reference.rejected_B))

    def terms(self, model: PairLogP, reference: PairLogP) -> Tensor:
        """Return the loss of each pair (B,)."""
        return -F.logsigmoid(self.margins(model, reference))

    def forward(self, model: PairLogP, reference: PairLogP, *, counted_B: Tensor) -> Loss:
        """Return the loss of the global batch; every rank calls it in every step.

        Args:
            model: what is trained.
            reference: what it began as.
            counted_B: bool, the pairs that count.
        """
        margin_B = self.margins(model, reference)
        total = torch.where(counted_B, -F.logsigmoid(margin_B), 0.0).sum()
        return Loss(comm.mean_over_ranks(total, counted_B.sum()))
