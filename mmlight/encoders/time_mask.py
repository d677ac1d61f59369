"""Keeps the padding of spectrograms out of a convolutional network.

Shapes: B samples, C channels, H frequency, W time.
"""

import torch
from torch import Tensor, nn

_WINDOWED = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


class TimeMask:
    """Zeroes the columns past each clip's end before every windowed operation of a network.

    A network's norms and biases fill padding with values that its convolutions then leak into
    real frames. With the padding zero at each depth a clip sees what it would see alone: zeros.
    Networks that pool inside (squeeze and excitation) are not covered: their gates still see how
    much padding there is, so give them a fixed number of frames.
    """

    def __init__(self) -> None:
        self.length_B: Tensor | None = None
        self.total = 0

    def attach(self, model: nn.Module) -> None:
        """Hook every convolution and pooling whose window is wider than one column."""
        for module in model.modules():
            kernel = getattr(module, "kernel_size", 1)
            width = kernel[-1] if isinstance(kernel, tuple) else kernel
            if isinstance(module, _WINDOWED) and width > 1:
                # A bound method: a deep copy of the network (EMA) gets a mask of its own.
                module.register_forward_pre_hook(self._hook)

    def columns(self, width: int) -> Tensor:
        """Return the mask (B, width) of columns that hold real frames at this depth."""
        assert self.length_B is not None
        real_B = (self.length_B * width + self.total - 1) // self.total
        return torch.arange(width, device=real_B.device) < real_B.unsqueeze(1)

    def _hook(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        maps_BCHW, *others = args
        keep_BW = self.columns(maps_BCHW.shape[-1])
        return (maps_BCHW * keep_BW[:, None, None].to(maps_BCHW.dtype), *others)
