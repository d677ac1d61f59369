"""Classifies every token.

Shapes as in `mmlight.batch`: B samples, L tokens, D feature width, K classes.
"""

from torch import Tensor, nn

from mmlight.errors import UserError


class PerToken(nn.Module):
    """Dropout and one linear layer on each token's features, as BERT tags (arXiv 1810.04805).

    Args:
        in_dim: D.
        num_classes: K.
        dropout: share of features set to zero in training.

    Raises:
        UserError: a dropout outside [0, 1).
    """

    def __init__(self, in_dim: int, num_classes: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise UserError(f"model.dropout: {dropout} must be in [0, 1) (usual is 0.1)")
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(in_dim, num_classes)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        """Return logits_BLK."""
        logits_BLK: Tensor = self.linear(self.dropout(tokens_BLD))
        return logits_BLK
