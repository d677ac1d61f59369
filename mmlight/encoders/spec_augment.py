"""SpecAugment (arXiv 1904.08779): hides bands and stretches of time of a log-mel in training.

Departs from it in leaving out the time warp, which the paper found to help least, and in giving
widths as shares, so that they fit any number of bands and clips of any length.

Shapes: B samples, M mel bands, L frames, N masks of one kind.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmlight.encoders.mel import length_mask
from mmlight.errors import UserError


@dataclass(frozen=True)
class SpecAugmentSettings:
    """What is hidden in training. The paper's LD policy has 2 masks of 0.34 and 2 of 0.2 at most.

    Attributes:
        freq_masks: bands of frequencies that are hidden.
        freq_width: the widest of them, as a share of all mel bands; widths are drawn from 0 on.
        time_masks: stretches of time that are hidden.
        time_width: the longest of them, as a share of a clip's own frames.
    """

    freq_masks: int = 2
    freq_width: float = 0.2
    time_masks: int = 2
    time_width: float = 0.1

    def __post_init__(self) -> None:
        """Refuse values out of range and settings that hide nothing."""
        for kind in ("freq", "time"):
            count, width = getattr(self, f"{kind}_masks"), getattr(self, f"{kind}_width")
            if count < 0:
                raise UserError(f"spec_augment.{kind}_masks is {count}; it must be 0 or more")
            if not 0 < width <= 1:
                raise UserError(f"spec_augment.{kind}_width is {width}; it must be above 0 up to 1")
        if not self.freq_masks and not self.time_masks:
            raise UserError("spec_augment: freq_masks and time_masks are both 0; leave it out")


def spec_augment(values_BML: Tensor, length_B: Tensor, settings: SpecAugmentSettings) -> Tensor:
    """Set hidden places to the mean of the clip's real frames.

    Masks are drawn for each clip from torch's own generator, which the task seeds at each step.
    Padding stays as it is, and masks lie within a clip's real frames.

    Args:
        values_BML: log-mels.
        length_B: real frames of each clip.
        settings: what is hidden.
    """
    num_bands, num_frames = values_BML.shape[1:]
    real_BL = length_mask(length_B, num_frames)
    bands_B = torch.full_like(length_B, num_bands)
    hidden_BM = _draw(bands_B, num_bands, settings.freq_masks, width=settings.freq_width)
    hidden_BL = _draw(length_B, num_frames, settings.time_masks, width=settings.time_width)
    hidden_BML = (hidden_BM.unsqueeze(2) | hidden_BL.unsqueeze(1)) & real_BL.unsqueeze(1)
    count_B = length_B.clamp(min=1) * num_bands
    mean_B = (values_BML * real_BL.unsqueeze(1)).sum((1, 2)) / count_B
    return torch.where(hidden_BML, mean_B.to(values_BML.dtype).view(-1, 1, 1), values_BML)


def _draw(length_B: Tensor, size: int, count: int, *, width: float) -> Tensor:
    """Return a bool mask (B, size) of `count` stretches within the first `length_B` places."""
    uniform_2BN = torch.rand(2, len(length_B), count, device=length_B.device)
    most_B1 = (width * length_B).floor().unsqueeze(1)
    width_BN = (uniform_2BN[0] * (most_B1 + 1)).floor()
    start_BN = (uniform_2BN[1] * (length_B.unsqueeze(1) - width_BN + 1)).floor()
    place = torch.arange(size, device=length_B.device)
    begun = place >= start_BN.unsqueeze(2)
    return (begun & (place < (start_BN + width_BN).unsqueeze(2))).any(1)
