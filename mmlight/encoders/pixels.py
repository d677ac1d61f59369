"""What image encoders have in common: pixels are normalised on their device, as in pretraining.

Shapes as in `mmlight.batch`: B samples, C channels.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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
