"""Discrete tokens of images.

Shapes as in `mmlight.batch`: B samples, C channels, H and W pixels.
"""

from typing import Any, Literal

from torch import Tensor

from mmlight.batch import Images
from mmlight.encoders.codes import Wanted
from mmlight.encoders.vq import VqNet
from mmlight.errors import UserError


class VqImage(VqNet):
    """An image as a square grid of codes (VQ-VAE), which `decode` turns back into pixels.

    Values are pixels between 0 and 1. Moving averages of weights (`ema`) do not suit it: the
    codebook follows the weights themselves.

    Args:
        size: height and width of the images in pixels.
        grid: height and width of the grid of codes; `size` is a power of two times as much.
        in_chans: 3 for RGB, 1 for grey.
        num_codes: K.
        code_dim: width of a code's vector.
        channels: of the finest maps; those of the grid have twice as many.
        num_layers: residual layers before the codes, and as many behind.
        decay: share of its old value that a code keeps in a step.

    Raises:
        UserError: sizes that do not go together, or images of another size.
    """

    modality = "image"

    def __init__(
        self,
        *,
        size: int = 64,
        grid: int = 16,
        in_chans: Literal[1, 3] = 3,
        num_codes: int = 512,
        code_dim: int = 16,
        channels: int = 32,
        num_layers: int = 2,
        decay: float = 0.97,
    ) -> None:
        if grid < 1 or size % grid:
            raise UserError(f"grid: {grid} must divide the size {size}")
        super().__init__(
            in_chans=in_chans,
            stride=size // grid,
            grid=(grid, grid),
            num_codes=num_codes,
            code_dim=code_dim,
            channels=channels,
            num_layers=num_layers,
            decay=decay,
        )
        self.size = size
        self._init_args: dict[str, Any] = {
            "size": size,
            "grid": grid,
            "in_chans": in_chans,
            "num_codes": num_codes,
            "code_dim": code_dim,
            "channels": channels,
            "num_layers": num_layers,
            "decay": decay,
        }

    def wanted(self, inputs: Images) -> Wanted:
        """Return the pixels between 0 and 1."""
        return Wanted(self._unit(inputs))

    def preparation(self) -> dict[str, Any]:
        """Return size and channels."""
        return {"size": self.size, "channels": self.in_chans}

    def rebuild_args(self) -> dict[str, Any]:
        """Return init arguments that rebuild this architecture."""
        return dict(self._init_args)

    def _input(self, inputs: Images) -> Tensor:
        return 2 * self._unit(inputs) - 1

    def _unit(self, inputs: Images) -> Tensor:
        pixels_BCHW = inputs.pixels_BCHW
        if tuple(pixels_BCHW.shape[1:]) != (self.in_chans, self.size, self.size):
            channels, height, width = pixels_BCHW.shape[1:]
            raise UserError(
                f"images that the tokenizer takes: {self.in_chans} x {self.size} x {self.size}, "
                f"but the data has {channels} x {height} x {width}; set data.image.size and "
                "channels"
            )
        return pixels_BCHW.to(self.codebook.code_KD.dtype) / 255
