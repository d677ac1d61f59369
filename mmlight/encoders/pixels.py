"""What image encoders have in common: pixels are normalised on their device, as in pretraining.

Shapes as in `mmlight.batch`: B samples, C channels.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmlight.encoders.encoder import Encoder
from mmlight.errors import UserError


@dataclass(frozen=True)
class PretrainedInputs:
    """How the images of pretraining became pixels.

    Attributes:
        mean: of each channel, of pixels between 0 and 1.
        std: likewise.
        preparation: see `mmlight.encoders.encoder.Encoder.preparation`.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    preparation: dict[str, Any]


class PixelEncoder(Encoder, ABC):
    """An encoder of uint8 pixels (B, C, H, W).

    Attributes:
        in_chans: number of channels C.
    """

    modality = "image"
    in_chans: int
    model: Any
    _side: int | None
    _channels_last = False
    _scale: Tensor
    _shift: Tensor

    def set_inputs(
        self, inputs: PretrainedInputs, *, mean: list[float] | None, std: list[float] | None
    ) -> None:
        """Normalise as in pretraining, but for what a user sets.

        Args:
            inputs: of pretraining.
            mean: of each channel, instead of theirs.
            std: likewise.

        Raises:
            UserError: another number of values than channels, or a deviation that is not above 0.
        """
        self._inputs = inputs
        self._mean = list(inputs.mean if mean is None else mean)
        self._std = list(inputs.std if std is None else std)
        self._is_set = mean is not None or std is not None
        for values, name in ((self._mean, "mean"), (self._std, "std")):
            if len(values) != self.in_chans:
                raise UserError(f"{name}: {len(values)} values for {self.in_chans} channels")
        if not all(value > 0 for value in self._std):
            raise UserError(f"std: {self._std} must be above zero")
        self._set_scale()

    def _set_scale(self) -> None:
        # One multiply-add: (x / 255 - mean) / std = x * scale + shift.
        mean_C, std_C = torch.tensor(self._mean), torch.tensor(self._std)
        self.register_buffer("_scale", (1 / (255 * std_C)).view(-1, 1, 1), persistent=False)
        self.register_buffer("_shift", (-mean_C / std_C).view(-1, 1, 1), persistent=False)

    def preparation(self) -> dict[str, Any]:
        """Return size and channels, and how the images of pretraining were prepared."""
        own = {"size": self._side} if self._side is not None else {}
        return self._inputs.preparation | own | {"channels": self.in_chans}

    def prepare_like(self, other: Encoder) -> None:
        """Normalise as another encoder does, unless mean and deviation are set."""
        if isinstance(other, PixelEncoder) and other.in_chans == self.in_chans and not self._is_set:
            self._mean, self._std = list(other._mean), list(other._std)
            self._set_scale()

    def fitted(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Resize position embeddings to this encoder's image size."""
        fitted, own = dict(tensors), self.state_dict()
        for name, grid in self._position_grids().items():
            if name in fitted and name in own and fitted[name].shape != own[name].shape:
                fitted[name] = resize_positions(fitted[name], grid, like=own[name])
        return fitted

    def _position_grids(self) -> dict[str, tuple[int, int]]:
        """Return the names of learned position embeddings, and how many patches each is for."""
        return {}

    @abstractmethod
    def _check_size(self, size: tuple[int, int]) -> None:
        """Raise UserError for images of a height and width that the network does not take."""

    def _normalise(self, pixels_BCHW: Tensor) -> Tensor:
        _, channels, height, width = pixels_BCHW.shape
        if channels != self.in_chans:
            raise UserError(
                f"channels that the image encoder takes: {self.in_chans}, but the images have "
                f"{channels} channels"
            )
        self._check_size((height, width))
        # In place on the fresh copy: half the time of one addcmul, which must allocate another.
        fresh_BCHW = pixels_BCHW.to(self._scale.dtype, copy=True)
        normal_BCHW = fresh_BCHW.mul_(self._scale).add_(self._shift)
        # Under a sharded strategy the weights may be bfloat16 while buffers are float32.
        dtype = next(self.model.parameters()).dtype
        # A convolution's kernels want the channels side by side, and its output stays like that.
        # The weights don't: fully_shard takes contiguous ones only.
        memory = torch.channels_last if self._channels_last else torch.preserve_format
        return normal_BCHW.to(dtype, memory_format=memory)


def resize_positions(positions: Tensor, grid: tuple[int, int], *, like: Tensor) -> Tensor:
    """Resize the position embeddings of a square grid of patches, as open_clip does.

    Bicubic, without aliasing; those of tokens that stand before the patches stay as they are.

    Args:
        positions: (1, L, D) or (L, D).
        grid: rows and columns of patches that are wanted.
        like: the embeddings that are wanted. Where something else than the grid differs, the given
            ones are returned as they are.
    """
    rows, columns = grid
    before = like.shape[-2] - rows * columns
    side = math.isqrt(max(positions.shape[-2] - before, 0))
    same = positions.ndim == like.ndim and positions.shape[-1] == like.shape[-1]
    square = side > 0 and side * side == positions.shape[-2] - before
    if not same or not square or before < 0 or min(grid) < 1:
        return positions
    first, patches = positions.float().split([before, side * side], dim=-2)
    patches_1DHW = patches.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resized_1DHW = nn.functional.interpolate(
        patches_1DHW, size=grid, mode="bicubic", antialias=True, align_corners=False
    )
    resized = resized_1DHW.permute(0, 2, 3, 1).reshape(*like.shape[:-2], rows * columns, -1)
    return torch.cat([first, resized], dim=-2).to(positions.dtype)
