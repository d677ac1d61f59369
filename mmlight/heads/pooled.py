"""The head on one vector per sample."""

from dataclasses import dataclass

from torch import Tensor, nn

from mmlight.errors import UserError


@dataclass(frozen=True)
class PooledHeadSettings:
    """A linear layer, or an MLP, behind a norm or not.

    Attributes:
        hidden_dim: width of a hidden layer with a GELU; None has no hidden layer.
        dropout: dropout in front of each linear layer.
        norm: layer norm at the input: features of unlike towers then have one scale.
    """

    hidden_dim: int | None = None
    dropout: float = 0.0
    norm: bool = False

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if self.hidden_dim is not None and self.hidden_dim < 1:
            raise UserError(f"model.head.hidden_dim: {self.hidden_dim} must be 1 or more")
        if not 0 <= self.dropout < 1:
            raise UserError(f"model.head.dropout: {self.dropout} must be in [0, 1)")


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

    def forward(self, features_BD: Tensor) -> Tensor:
        """Return logits (B, K)."""
        logits_BK: Tensor = self.layers(features_BD)
        return logits_BK
