"""Joins the features of several modalities, any of which a sample may lack.

Shapes as in `mmlight.batch`: B samples, L tokens, D width of a tower, F width of the fusion.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlight.errors import UserError
from mmlight.modality import Modality

ByModality = Mapping[Modality, Tensor]


class Fusion(nn.Module, ABC):
    """Turns each modality's features into one vector per sample.

    Args:
        fusion_dim: width F of the vector.
        modality_dropout: how often training hides each modality that a sample has; one that it has
            always stays.

    Attributes:
        takes_tokens: whether it wants a tower's tokens or its pooled features.
    """

    takes_tokens: bool = False
    projections: nn.ModuleDict

    def __init__(self, *, fusion_dim: int = 128, modality_dropout: float = 0.2) -> None:
        super().__init__()
        if fusion_dim < 1:
            raise UserError(f"model.fusion.fusion_dim: {fusion_dim} must be 1 or more")
        if not 0 <= modality_dropout < 1:
            raise UserError(f"model.fusion.modality_dropout: {modality_dropout} must be in [0, 1)")
        self.fusion_dim = fusion_dim
        self.modality_dropout = modality_dropout

        self.dims: dict[Modality, int] = {}

    def build(self, dims: Mapping[Modality, int]) -> None:
        """Create the layers for towers of these widths."""
        self.dims = dict(dims)
        width = self.fusion_dim
        self.projections = nn.ModuleDict(
            {m: nn.Sequential(nn.LayerNorm(d), nn.Linear(d, width)) for m, d in dims.items()}
        )
        self.create(dims)

    @abstractmethod
    def create(self, dims: Mapping[Modality, int]) -> None:
        """Create the layers behind the projections of the modalities."""

    @abstractmethod
    def join(self, tokens: ByModality, masks: ByModality, present: ByModality) -> Tensor:
        """Return vectors (B, F); what `forward` does after dropping modalities."""

    def forward(self, tokens: ByModality, masks: ByModality, present: ByModality) -> Tensor:
        """Return one vector per sample, (B, F).

        Args:
            tokens: (B, L, D) by modality; L is 1 for pooled features.
            masks: bool (B, L), True for real tokens.
            present: bool (B,), whether a sample has the modality.
        """
        if self.training and self.modality_dropout:
            present = drop_modalities(present, self.modality_dropout)
        return self.join(tokens, masks, present)


class LateFusion(Fusion):
    """Pooled features, each projected, a learned vector where one is missing, and an MLP.

    Args:
        fusion_dim: width F.
        modality_dropout: how often training hides a modality.
    """

    def create(self, dims: Mapping[Modality, int]) -> None:
        """Create a vector for "missing" of each modality, and the MLP."""
        width = self.fusion_dim
        self.missing = nn.ParameterDict({m: nn.Parameter(torch.zeros(width)) for m in dims})
        self.mix = nn.Sequential(nn.Linear(len(dims) * width, width), nn.GELU())

    def join(self, tokens: ByModality, masks: ByModality, present: ByModality) -> Tensor:
        """Return vectors (B, F)."""
        parts = [
            torch.where(
                present[name][:, None],
                self.projections[name](tokens[name][:, 0]),
                self.missing[name],
            )
            for name in self.dims
        ]
        joined_BF: Tensor = self.mix(torch.cat(parts, dim=1))
        return joined_BF


class TransformerFusion(Fusion):
    """A transformer over the tokens of all modalities, read out at a token of its own.

    What a sample lacks is hidden from attention, as in FLAVA's multimodal encoder (arXiv
    2112.04482).

    Args:
        fusion_dim: width F.
        modality_dropout: how often training hides a modality.
        fusion_layers: layers of the transformer.
        fusion_heads: attention heads; they divide F.
        fusion_dropout: dropout in its layers.
        fusion_positions: learned positions for so many first tokens of each modality, for towers
            whose tokens do not say where they stand (a CNN's); 0 adds none.
    """

    takes_tokens = True

    def __init__(
        self,
        *,
        fusion_dim: int = 128,
        modality_dropout: float = 0.2,
        fusion_layers: int = 2,
        fusion_heads: int = 4,
        fusion_dropout: float = 0.1,
        fusion_positions: int = 0,
    ) -> None:
        super().__init__(fusion_dim=fusion_dim, modality_dropout=modality_dropout)
        if fusion_positions < 0:
            raise UserError(f"model.fusion.fusion_positions: {fusion_positions} must be 0 or more")
        if fusion_dim % fusion_heads:
            raise UserError(
                f"model.fusion.fusion_heads: {fusion_heads} does not divide fusion_dim {fusion_dim}"
            )
        self.fusion_layers = fusion_layers
        self.fusion_heads = fusion_heads
        self.fusion_dropout = fusion_dropout
        self.fusion_positions = fusion_positions

    def create(self, dims: Mapping[Modality, int]) -> None:
        """Create a vector "this is an image" of each modality, and the layers."""
        width = self.fusion_dim
        self.kinds = nn.ParameterDict({m: nn.Parameter(torch.randn(width) * 0.02) for m in dims})
        self.readout = nn.Parameter(torch.randn(width) * 0.02)
        self.positions: nn.ParameterDict | None = None
        if self.fusion_positions:
            shape = (self.fusion_positions, width)
            self.positions = nn.ParameterDict(
                {m: nn.Parameter(torch.randn(shape) * 0.02) for m in dims}
            )
        layer = nn.TransformerEncoderLayer(
            width,
            self.fusion_heads,
            4 * width,
            dropout=self.fusion_dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(
            layer, self.fusion_layers, norm=nn.LayerNorm(width), enable_nested_tensor=False
        )

    def join(self, tokens: ByModality, masks: ByModality, present: ByModality) -> Tensor:
        """Return vectors (B, F)."""
        size = next(iter(present.values())).shape[0]
        joined = [self.readout.expand(size, 1, -1)]
        hidden = [torch.zeros(size, 1, dtype=torch.bool, device=self.readout.device)]
        for name in self.dims:
            own_BLF = self.projections[name](tokens[name]) + self.kinds[name]
            if self.positions is not None:
                own_BLF = own_BLF + first_rows(self.positions[name], own_BLF.shape[1])
            joined.append(own_BLF)
            hidden.append(~(masks[name] & present[name][:, None]))
        out_BLF = self.layers(torch.cat(joined, dim=1), src_key_padding_mask=torch.cat(hidden, 1))
        vector_BF: Tensor = out_BLF[:, 0]
        return vector_BF


def first_rows(position_LF: Tensor, length: int) -> Tensor:
    """Return the first rows (length, F) of a table of positions; those beyond it are zero."""
    beyond = max(0, length - position_LF.shape[0])
    return F.pad(position_LF[:length], (0, 0, 0, beyond))


def drop_modalities(present: Mapping[Modality, Tensor], rate: float) -> dict[Modality, Tensor]:
    """Return which modalities of each sample stay when each is hidden at this rate; one does."""
    names = list(present)
    has_BM = torch.stack([present[name] for name in names], dim=1)
    score_BM = torch.rand(has_BM.shape, device=has_BM.device)
    # The present modality of the highest score stays in any case.
    best_B = score_BM.masked_fill(~has_BM, -1).argmax(1)
    keep_BM = (score_BM >= rate) | torch.eye(len(names), device=has_BM.device).bool()[best_B]
    left_BM = has_BM & keep_BM
    return {name: left_BM[:, number] for number, name in enumerate(names)}
