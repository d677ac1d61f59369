"""Compares pictures by what a trained image tower sees in them (arXiv 1603.08155).

Shapes as in `mmlight.batch`: B samples, C channels, H and W pixels.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlight.batch import Images
from mmlight.encoders.encoder import Encoder
from mmlight.errors import UserError
from mmlight.tasks.source import read_source


@dataclass(frozen=True)
class PerceptualSettings:
    """A loss in features.

    Attributes:
        from_run: whose image tower sees: a run folder, checkpoint, export or published model. It is
            no part of what is trained, and no checkpoint holds it.
        weight: of the mean squared difference of its maps, each of unit length in channels.
    """

    from_run: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a weight without effect."""
        if not self.weight > 0:
            raise UserError(f"model.perceptual.weight: {self.weight:g} must be above 0")


class Perceptual:
    """The distance of pictures in the maps of a tower that stays as it is."""

    def __init__(self, settings: PerceptualSettings) -> None:
        source = read_source(settings.from_run, "image")
        self.encoder: Encoder = source.encoder.eval().requires_grad_(False)
        self.encoder.map_specs()  # refuses one without maps
        self.weight = settings.weight
        size = source.preparation.get("size")
        self._size = size if isinstance(size, int) else None

    def __call__(self, values_BCHW: Tensor, wanted_BCHW: Tensor) -> Tensor:
        """Return the weighted distance of each picture (B,); values lie between 0 and 1."""
        self.encoder.to(values_BCHW.device)
        with torch.no_grad():
            wanted_maps = self._maps(wanted_BCHW)
        found = torch.zeros(len(values_BCHW), device=values_BCHW.device)
        for maps_BCHW, other_BCHW in zip(self._maps(values_BCHW), wanted_maps, strict=True):
            off_BCHW = F.normalize(maps_BCHW, dim=1) - F.normalize(other_BCHW, dim=1)
            found = found + off_BCHW.square().sum(1).mean((1, 2))
        return self.weight * found / len(wanted_maps)

    def _maps(self, values_BCHW: Tensor) -> list[Tensor]:
        if self._size is not None and values_BCHW.shape[-1] != self._size:
            shape = (self._size, self._size)
            values_BCHW = F.interpolate(values_BCHW, shape, mode="bilinear", antialias=True)
        here_B = torch.ones(len(values_BCHW), dtype=torch.bool, device=values_BCHW.device)
        return self.encoder.feature_maps(Images(255 * values_BCHW, here_B))
