"""Mixup and CutMix of a training batch.

Shapes as in `mmlight.batch`: B samples, K classes.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmlight.batch import Batch
from mmlight.errors import UserError


@dataclass(frozen=True)
class Mixing:
    """How often, and how, samples of a batch are mixed with one another.

    Images are mixed by mixup or CutMix, sounds by mixup.

    Attributes:
        mixup_alpha: the share of the other sample is drawn from Beta(alpha, alpha) (arXiv
            1710.09412); 0 is off.
        cutmix_alpha: the same for the area of a box that comes from the other sample (arXiv
            1905.04899); 0 is off. With both, each batch gets one of them, with equal chance.
        probability: the share of batches that are mixed.
    """

    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    probability: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if min(self.mixup_alpha, self.cutmix_alpha) < 0 or not (
            self.mixup_alpha or self.cutmix_alpha
        ):
            raise UserError("model.mixing: set mixup_alpha, cutmix_alpha or both above 0")
        if not 0 < self.probability <= 1:
            raise UserError(f"model.mixing.probability: {self.probability} must be in (0, 1]")

    def __call__(
        self, batch: Batch, target_BK: Tensor, *, counted_B: Tensor
    ) -> tuple[Batch, Tensor]:
        """Return the mixed batch and targets; random numbers come from torch's generator.

        Args:
            batch: with images, sounds or both.
            target_BK: 0 to 1.
            counted_B: bool, False for samples without a label, which stay as they are.
        """
        if torch.rand(()) >= self.probability:
            return batch, target_BK
        kinds = [k for k, a in (("mixup", self.mixup_alpha), ("cut", self.cutmix_alpha)) if a]
        kind = kinds[int(torch.randint(len(kinds), ()))]
        alpha = self.mixup_alpha if kind == "mixup" else self.cutmix_alpha
        share = float(torch.distributions.Beta(alpha, alpha).sample())
        other_B = torch.randperm(batch.size).to(target_BK.device)
        other_B = _stay(other_B, counted_B)
        # A missing input is zeros: mixed with one, a sample would only fade.
        for name in batch.modalities():
            other_B = _stay(other_B, batch.present(name))
        image, audio = batch.image, batch.audio
        if image is not None:
            pixels = image.pixels_BCHW
            if kind == "cut":
                top, left, height, width = _box(pixels.shape[2], pixels.shape[3], share)
                pixels = pixels.clone()
                box = (..., slice(top, top + height), slice(left, left + width))
                pixels[box] = image.pixels_BCHW[other_B][box]
                share = height * width / (pixels.shape[2] * pixels.shape[3])
            else:
                pixels = torch.lerp(pixels.float(), pixels[other_B].float(), share)
            image = replace(image, pixels_BCHW=pixels)
        if audio is not None:
            audio = replace(
                audio,
                waveform_BT=torch.lerp(audio.waveform_BT, audio.waveform_BT[other_B], share),
                length_B=torch.maximum(audio.length_B, audio.length_B[other_B]),
            )
        mixed = torch.lerp(target_BK, target_BK[other_B], share)
        return replace(batch, image=image, audio=audio), mixed


def _stay(other_B: Tensor, present_B: Tensor) -> Tensor:
    itself_B = torch.arange(len(other_B), device=other_B.device)
    return torch.where(present_B & present_B[other_B], other_B, itself_B)


def _box(height: int, width: int, share: float) -> tuple[int, int, int, int]:
    """Return top, left, height, width of a box of about `share` of the area, cut at the border."""
    side = math.sqrt(share)
    box_height, box_width = round(side * height), round(side * width)
    middle_y, middle_x = int(torch.randint(height, ())), int(torch.randint(width, ()))
    top, bottom = max(0, middle_y - box_height // 2), min(height, middle_y + (box_height + 1) // 2)
    left, right = max(0, middle_x - box_width // 2), min(width, middle_x + (box_width + 1) // 2)
    return top, left, bottom - top, right - left
