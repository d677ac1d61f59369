"""Heads on one vector per sample, and on every token."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmlight.errors import UserError


@dataclass(frozen=True)
class PooledHeadSettings:
    """A linear layer, or an MLP, behind a norm or not.

    Attributes:
        hidden_dim: width of a hidden layer with a GELU; None has no hidden layer.
        dropout: dropout in front of each linear layer.
        norm: layer norm at the input: features of unlike towers then have one scale.
        max_norm: longest that each class's row of weights may be, shortened after every step (arXiv
            1207.0580; 3 in arXiv 1408.5882); None is no limit.
    """

    hidden_dim: int | None = None
    dropout: float = 0.0
    norm: bool = False
    max_norm: float | None = None

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if self.hidden_dim is not None and self.hidden_dim < 1:
            raise UserError(f"model.head.hidden_dim: {self.hidden_dim} must be 1 or more")
        if not 0 <= self.dropout < 1:
            raise UserError(f"model.head.dropout: {self.dropout} must be in [0, 1)")
        if self.max_norm is not None and not self.max_norm > 0:
            raise UserError(f"model.head.max_norm: {self.max_norm} must be above 0 (usual is 3)")


class PooledHead(nn.Module):
    """Turns features (B, D) into logits (B, K).

    Args:
        settings: its layers.
        in_dim: D.
        num_classes: K.
    """

    def __init__(self, settings: PooledHeadSettings, *, in_dim: int, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.LayerNorm(in_dim)] if settings.norm else []
        width = in_dim
        if settings.hidden_dim is not None:
            layers += [nn.Dropout(settings.dropout), nn.Linear(width, settings.hidden_dim)]
            layers += [nn.GELU()]
            width = settings.hidden_dim
        last = nn.Linear(width, num_classes)
        nn.init.normal_(last.weight, std=0.02)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(*layers, nn.Dropout(settings.dropout), last)
        self._max_norm = settings.max_norm

    def forward(self, features_BD: Tensor) -> Tensor:
        """Return logits (B, K)."""
        logits_BK: Tensor = self.layers(features_BD)
        return logits_BK

    @torch.no_grad()
    def after_step(self) -> None:
        """Shorten rows of the last layer's weights that are longer than `max_norm`."""
        last = self.layers[-1]
        if self._max_norm is not None and isinstance(last, nn.Linear):
            norm_K1 = torch.linalg.vector_norm(last.weight, dim=1, keepdim=True)
            last.weight.mul_((self._max_norm / norm_K1.clamp(min=1e-7)).clamp(max=1))


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
