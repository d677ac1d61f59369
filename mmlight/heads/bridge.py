"""From the tokens of a tower to what a decoder takes.

Shapes as in `mmlight.batch`: B samples, L tokens, D feature width.
"""

from torch import Tensor, nn

from mmlight.errors import UserError


class Bridge(nn.Module):
    """A norm, dropout, and one or two matrices from the tower's width to the decoder's.

    Args:
        in_dim: width of the tower's tokens.
        out_dim: width that the decoder takes.
        dropout: rate of the dropout on the tokens.
        hidden_dim: width between two matrices (LLaVA 1.5, arXiv 2310.03744); None has one matrix.
        always_projects: have a matrix also where both widths are the same, for a decoder that takes
            the tokens as if they were words.

    Raises:
        UserError: a rate or a width out of range.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        dropout: float,
        hidden_dim: int | None = None,
        always_projects: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise UserError(f"dropout: {dropout} must be at least 0 and below 1")
        if hidden_dim is not None and hidden_dim < 1:
            raise UserError(f"bridge_hidden: {hidden_dim} must be 1 or more")
        self.norm = nn.LayerNorm(in_dim)
        self.drop = nn.Dropout(dropout)
        self.projection: nn.Module = nn.Identity()
        if hidden_dim is not None:
            self.projection = nn.Sequential(
                nn.Linear(in_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, out_dim)
            )
        elif always_projects or in_dim != out_dim:
            self.projection = nn.Linear(in_dim, out_dim)

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        """Return the tokens (B, L, out_dim)."""
        projected_BLD: Tensor = self.projection(self.drop(self.norm(tokens_BLD)))
        return projected_BLD
