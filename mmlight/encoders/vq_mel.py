"""Discrete tokens of sounds: of their log-mel spectrograms.

Shapes as in `mmlight.batch`: B samples, M mel bands, L frames.
"""

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from mmlight.batch import Audio
from mmlight.encoders.codes import Wanted
from mmlight.encoders.mel import LogMel, LogMelSettings, length_mask
from mmlight.encoders.vq import VqNet
from mmlight.errors import UserError

_DEFAULT_MEL = LogMelSettings()


class VqMel(VqNet):
    """A spectrogram as codes, the lowest band's first (VQ-VAE over log-mels).

    Values are normalised log-mel powers. Clips have one number of frames: shorter ones end in
    silence, longer ones are cut.

    Args:
        mel: how waveforms become spectrograms.
        frames: of a clip; a multiple of `stride`, as is the number of mel bands.
        stride: bands and frames that a code stands for; a power of two.
        num_codes: K.
        code_dim: width of a code's vector.
        channels: of the finest maps; those of the grid have twice as many.
        num_layers: residual layers before the codes, and as many behind.
        decay: share of its old value that a code keeps in a step.

    Raises:
        UserError: sizes that do not go together.
    """

    modality = "audio"

    def __init__(
        self,
        *,
        mel: LogMelSettings = _DEFAULT_MEL,
        frames: int = 100,
        stride: int = 4,
        num_codes: int = 512,
        code_dim: int = 16,
        channels: int = 32,
        num_layers: int = 2,
        decay: float = 0.97,
    ) -> None:
        if stride < 1 or frames < 1 or frames % stride or mel.n_mels % stride:
            raise UserError(
                f"stride: {stride} must divide both the {frames} frames and the {mel.n_mels} mel "
                "bands"
            )
        super().__init__(
            in_chans=1,
            stride=stride,
            grid=(mel.n_mels // stride, frames // stride),
            num_codes=num_codes,
            code_dim=code_dim,
            channels=channels,
            num_layers=num_layers,
            decay=decay,
        )
        self.log_mel = LogMel(mel)
        self.sample_rate_hz, self.frames = mel.sample_rate_hz, frames
        # From the floor of the logarithm to a power of 1.
        std = mel.std if isinstance(mel.std, int | float) else sum(mel.std) / len(mel.std)
        scale = 10 / math.log(10) if mel.log == "decibel" else 1.0
        self.peak = -math.log(mel.floor) * scale / std
        self._init_args: dict[str, Any] = {
            "mel": mel,
            "frames": frames,
            "stride": stride,
            "num_codes": num_codes,
            "code_dim": code_dim,
            "channels": channels,
            "num_layers": num_layers,
            "decay": decay,
        }

    def wanted(self, inputs: Audio) -> Wanted:
        """Return the spectrograms, and which frames hold sound."""
        spectra = self.log_mel(inputs.waveform_BT, inputs.length_B)
        values_B1ML = self._fit(spectra.log_mel_BML)
        real_BL = length_mask(spectra.length_B.clamp(max=self.frames), self.frames)
        return Wanted(values_B1ML, real_BL[:, None].expand(-1, values_B1ML.shape[2], -1))

    def preparation(self) -> dict[str, Any]:
        """Return the sampling rate, and the length of the frames."""
        seconds = self.frames * self.log_mel.settings.hop_ms / 1000
        return {"sample_rate_hz": self.sample_rate_hz, "max_seconds": seconds}

    def rebuild_args(self) -> dict[str, Any]:
        """Return init arguments that rebuild this architecture."""
        return dict(self._init_args)

    def _input(self, inputs: Audio) -> Tensor:
        return self._fit(self.log_mel(inputs.waveform_BT, inputs.length_B).log_mel_BML)

    def _fit(self, values_BML: Tensor) -> Tensor:
        # A negative pad cuts.
        return F.pad(values_BML, (0, self.frames - values_BML.shape[-1]))[:, None]
