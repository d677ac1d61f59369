"""What maps an encoder's features to the joint width."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from mmlight.errors import UserError

Kind = Literal["linear", "mlp", "none"]
_ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU}


@dataclass(frozen=True)
class ProjectionSettings:
    """How features become those of the joint space.

    Attributes:
        kind: ``linear``, one matrix; ``mlp``, two with an activation between them; ``none`` (then
            the encoder's width must be the joint width).
        bias: whether the matrices have one.
        hidden: width between the two matrices of an mlp; None is the joint width.
        activation: between the two matrices of an mlp.
    """

    kind: Kind = "linear"
    bias: bool = False
    hidden: int | None = None
    activation: Literal["gelu", "relu"] = "gelu"

    def __post_init__(self) -> None:
        """Refuse values out of range and settings without effect."""
        if self.hidden is not None and self.hidden < 1:
            raise UserError(f"projection.hidden: {self.hidden} must be 1 or more")
        for name in ("hidden", "activation"):
            if self.kind != "mlp" and getattr(self, name) != type(self).__dict__[name]:
                raise UserError(f"projection.{name} has no effect on kind: {self.kind}; use mlp")
        if self.bias and self.kind == "none":
            raise UserError("projection.bias has no effect on kind: none")

    def build(self, in_dim: int, *, embed_dim: int, where: str) -> nn.Module:
        """Create the layers with random weights.

        Args:
            in_dim: width of the features.
            embed_dim: the joint width.
            where: the tower's setting, for messages.

        Raises:
            UserError: none, with unequal widths.
        """
        if self.kind == "none":
            if in_dim != embed_dim:
                raise UserError(
                    f"{where}.projection: none needs an encoder as wide as the joint space, "
                    f"but it gives {in_dim} and model.embed_dim is {embed_dim}; use linear"
                )
            return nn.Identity()
        if self.kind == "linear":
            return _matrix(in_dim, embed_dim, bias=self.bias)
        hidden = self.hidden or embed_dim
        first = _matrix(in_dim, hidden, bias=self.bias)
        second = _matrix(hidden, embed_dim, bias=self.bias)
        return nn.Sequential(first, _ACTIVATIONS[self.activation](), second)


def projection_settings(given: ProjectionSettings | Kind | None) -> ProjectionSettings:
    """Return what a tower's setting stands for; nothing, or a kind alone, is short for it."""
    if isinstance(given, ProjectionSettings):
        return given
    return ProjectionSettings(kind=given or "linear")


def _matrix(in_dim: int, out_dim: int, *, bias: bool) -> nn.Linear:
    layer = nn.Linear(in_dim, out_dim, bias=bias)
    nn.init.normal_(layer.weight, std=in_dim**-0.5)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
