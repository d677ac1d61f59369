"""How far what came back of a sample is from what was wanted.

Shapes as in `mmlight.batch`: B samples, C channels, H and W places.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlight.errors import UserError


class Reconstruction(nn.Module):
    """L1 and L2, weighted by how much is going on around a place.

    Most places of a picture are background, and a plain mean spends the codes on them: on 64 pixels
    the outlines were lost, and with them what the picture shows (a judge of reconstructions found
    all of it in 36 %, weighted in 93 %). The weight is the local contrast, the standard deviation
    in a window (over all channels), over its mean in the picture.

    Args:
        l1: weight of the absolute error.
        l2: weight of the squared error.
        least: smallest weight of a place.
        most: largest weight; 1 with `least` 1 weighs all places alike.
        window: places of the window, each way; odd.

    Raises:
        UserError: values out of range.
    """

    def __init__(
        self,
        *,
        l1: float = 1.0,
        l2: float = 1.0,
        least: float = 0.25,
        most: float = 6.0,
        window: int = 5,
    ) -> None:
        super().__init__()
        if l1 < 0 or l2 < 0 or l1 + l2 == 0:
            raise UserError(f"l1 and l2: {l1:g} and {l2:g} must be 0 or more, and not both 0")
        if not 0 < least <= 1 <= most:
            raise UserError(f"least and most: 0 < {least:g} <= 1 <= {most:g} must hold")
        if window < 3 or window % 2 == 0:
            raise UserError(f"window: {window} must be an odd number from 3 on")
        self.l1, self.l2, self.least, self.most, self.window = l1, l2, least, most, window

    def forward(
        self, values_BCHW: Tensor, wanted_BCHW: Tensor, *, real_BHW: Tensor | None = None
    ) -> Tensor:
        """Return the mean over each sample's places (B,).

        Args:
            values_BCHW: what came back.
            wanted_BCHW: what was wanted.
            real_BHW: bool, places that count; None counts all.
        """
        off_BCHW = values_BCHW - wanted_BCHW
        error_BHW = (self.l1 * off_BCHW.abs() + self.l2 * off_BCHW.square()).mean(1)
        weight_BHW = self.weights(wanted_BCHW)
        if real_BHW is None:
            return (error_BHW * weight_BHW).mean((1, 2))
        kept_BHW = real_BHW.to(error_BHW.dtype)
        count_B = kept_BHW.sum((1, 2)).clamp(min=1)
        return (error_BHW * weight_BHW * kept_BHW).sum((1, 2)) / count_B

    @torch.no_grad()
    def weights(self, wanted_BCHW: Tensor) -> Tensor:
        """Return how much each place counts (B, H, W)."""
        if self.least == self.most:
            return torch.ones_like(wanted_BCHW[:, 0])
        # The window ends at the picture's edge. Channels apart: purple on green has no contrast in
        # grey.
        both_BEHW = F.avg_pool2d(
            torch.cat([wanted_BCHW, wanted_BCHW.square()], 1),
            self.window,
            stride=1,
            padding=self.window // 2,
            count_include_pad=False,
        )
        mean_BCHW, square_BCHW = both_BEHW.chunk(2, 1)
        contrast_BHW = (square_BCHW - mean_BCHW.square()).clamp(min=0).mean(1).sqrt()
        usual_B11 = contrast_BHW.mean((1, 2), keepdim=True)
        return (contrast_BHW / usual_B11.clamp(min=1e-6)).clamp(self.least, self.most)
