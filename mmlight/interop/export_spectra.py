"""Mel power spectra without a Fourier transform, which not every runtime has, or has right.

Shapes: B samples, T waveform samples, F frequencies, W samples of a transform, L frames.
"""

import math
from typing import Any

import torch
import torch.nn.functional as nn_functional
from torch import Tensor, nn

from mmlight.encoders.mel import MelPower


class DftMelPower(nn.Module):
    """What `MelPower` computes, as a strided convolution with windowed sines and cosines.

    onnxruntime's STFT gave other values than torch for clips of another length than the one that
    was exported. The weights are exact to float32, so that powers agree to about 1e-6 of a clip's
    largest.

    Args:
        power: the module to stand in for.
    """

    weights_2F1W: Tensor
    filters_FM: Tensor

    def __init__(self, power: MelPower) -> None:
        super().__init__()
        self.n_fft, self.hop, self.pad_mode = power.n_fft, power.hop, power.pad_mode
        self.register_buffer("filters_FM", power.filters_FM.float(), persistent=False)
        window = power.window.double()
        left = (self.n_fft - window.shape[0]) // 2  # as torch.stft centres a shorter window
        window_W = nn_functional.pad(window, (left, self.n_fft - window.shape[0] - left))
        place_W = torch.arange(self.n_fft, dtype=torch.float64)
        frequency_F1 = torch.arange(self.n_fft // 2 + 1, dtype=torch.float64)[:, None]
        angle_FW = 2 * math.pi * frequency_F1 * place_W / self.n_fft
        weights = torch.cat([angle_FW.cos() * window_W, angle_FW.sin() * window_W])
        self.register_buffer("weights_2F1W", weights[:, None].float(), persistent=False)

    def forward(self, waveform_BT: Tensor) -> Tensor:
        """Return float32 mel powers (B, M, L) with L = 1 + T // hop."""
        half = self.n_fft // 2
        wave_B1T = waveform_BT.float().unsqueeze(1)
        padded_B1T = nn_functional.pad(wave_B1T, (half, half), mode=self.pad_mode)
        parts_BCL = nn_functional.conv1d(padded_B1T, self.weights_2F1W, stride=self.hop)
        count = half + 1
        power_BFL = parts_BCL[:, :count].square() + parts_BCL[:, count:].square()
        mel_BML: Tensor = self.filters_FM.T @ power_BFL
        return mel_BML


def replace_spectra(module: nn.Module) -> nn.Module:
    """Put a `DftMelPower` in the place of every `MelPower`, and return the module.

    Args:
        module: changed in place.
    """
    for parent in module.modules():
        for name, child in list(parent.named_children()):
            if isinstance(child, MelPower):
                stand_in: Any = DftMelPower(child)
                setattr(parent, name, stand_in.to(child.window.device))
    return module
