"""The contract of encoders that turn a sample into codes out of a codebook, and back.

Shapes as in `mmlight.batch`: B samples, C channels, H and W places, L = h w codes, D features.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmlight.encoders.encoder import Encoded, Encoder


@dataclass(frozen=True)
class Wanted:
    """What codes are to bring back.

    Attributes:
        values_BCHW: float32 (float64 of float64).
        real_BHW: bool, places that are not padding; None: all are real.
    """

    values_BCHW: Tensor
    real_BHW: Tensor | None = None


@dataclass(frozen=True)
class Rebuilt:
    """What came back, with gradients.

    Attributes:
        values_BCHW: as wanted.
        codes_BL: int64.
        commitment_B: mean squared distance of a sample's vectors to their codes.
    """

    values_BCHW: Tensor
    codes_BL: Tensor
    commitment_B: Tensor


class CodeEncoder(Encoder):
    """A discrete tokenizer: a sample is h x w codes, row by row, which a decoder turns back.

    As a tower its tokens are the vectors of its codes; it has none for the sample as a whole.

    Attributes:
        num_codes: K, how many different codes there are.
        grid: h and w.
        peak: the range of the values, which PSNR is relative to.
    """

    has_pooled = False
    num_codes: int
    grid: tuple[int, int]
    peak: float = 1.0

    @property
    def num_tokens(self) -> int:
        """L."""
        return self.grid[0] * self.grid[1]

    @abstractmethod
    def wanted(self, inputs: Any) -> Wanted:
        """Return what the codes of `Images` or `Audio` are to bring back."""

    @abstractmethod
    def codes(self, inputs: Any) -> Tensor:
        """Return the codes of `Images` or `Audio`, int64 (B, L)."""

    @abstractmethod
    def decode(self, codes_BL: Tensor) -> Tensor:
        """Return what codes stand for (B, C, H, W)."""

    @abstractmethod
    def vectors(self, codes_BL: Tensor) -> Tensor:
        """Return the vectors of codes (B, L, D)."""

    def forward(self, inputs: Any, *, tokens: bool = False) -> Encoded:
        """Encode `Images` or `Audio`; there is nothing without `tokens`."""
        if not tokens:
            return Encoded(None)
        codes_BL = self.codes(inputs)
        mask_BL = torch.ones_like(codes_BL, dtype=torch.bool)
        return Encoded(None, self.vectors(codes_BL), mask_BL)


class TrainedCodes(CodeEncoder):
    """A tokenizer that can be trained by what comes back of its codes."""

    @abstractmethod
    def rebuild(self, inputs: Any) -> Rebuilt:
        """Return what comes back; in training the codebook moves, so that every rank calls it."""

    @abstractmethod
    def patches(self) -> Tensor:
        """Return what each code looks like among its like (K, C, H, W)."""
