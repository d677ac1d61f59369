"""A speech encoder: log-mel, two strided convolutions, bidirectional recurrent layers.

Shapes: B samples, M mel bands, C channels, L frames, D feature width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmlight.batch import Audio
from mmlight.encoders.canvas import Canvas, TokenGrid
from mmlight.encoders.depth import cut_into_blocks
from mmlight.encoders.encoder import Block, Encoded, Encoder
from mmlight.encoders.mel import (
    LogMel,
    LogMelSettings,
    SpecAugmentSettings,
    length_mask,
    spec_augment,
)
from mmlight.encoders.pool import masked_mean
from mmlight.errors import UserError

_STRIDE = 4
_DEFAULT_MEL = LogMelSettings(n_mels=80)


class MelGru(Encoder):
    """Frames of speech, one for every four of the log-mel (40 ms by default), in order of time.

    In the manner of Deep Speech 2 (arXiv 1512.02595): convolutions over time and frequency, then
    recurrent layers in both directions, whose sum is passed on. Departs from it in GRU layers with
    a residual connection and layer norm in place of batch norm, whose statistics would count
    padding. Each band of a clip is normalised to zero mean and unit variance over the clip's own
    frames, which takes the microphone and the loudness out.

    A clip gives the same frames whatever it is batched with.

    Args:
        mel: how waveforms become spectrograms.
        channels: channels of the convolutions.
        dim: width D of the recurrent layers and of the frames.
        layers: number of recurrent layers.
        dropout: rate after the convolutions and after each recurrent layer.
        spec_augment: what of the spectrogram is hidden in training; None hides nothing.

    Attributes:
        sample_rate_hz: sampling rate that waveforms must have.
        frame_ms: distance of two frames.

    Raises:
        UserError: settings out of range.
    """

    modality = "audio"

    def __init__(
        self,
        *,
        mel: LogMelSettings = _DEFAULT_MEL,
        channels: int = 32,
        dim: int = 256,
        layers: int = 3,
        dropout: float = 0.1,
        spec_augment: SpecAugmentSettings | None = None,
    ) -> None:
        super().__init__()
        for name, value in (
            ("channels", channels),
            ("dim", dim),
            ("layers", layers),
        ):
            if value < 1:
                raise UserError(f"{name}: {value} must be 1 or more")
        if not 0 <= dropout < 1:
            raise UserError(f"dropout: {dropout} must be at least 0 and below 1")
        self.log_mel = LogMel(mel)
        self.sample_rate_hz = mel.sample_rate_hz
        self.frame_ms = mel.hop_ms * _STRIDE
        self.out_dim = dim
        self.spec_augment = spec_augment
        self.stem = _Stem(mel.n_mels, channels, dim, dropout=dropout)
        self.layers = nn.ModuleList([_Layer(dim, dropout=dropout) for _ in range(layers)])
        self.norm = nn.LayerNorm(dim)
        self._checkpointing = False
        self._init_args = {
            "mel": mel,
            "channels": channels,
            "dim": dim,
            "layers": layers,
            "dropout": dropout,
            "spec_augment": spec_augment,
        }

    def forward(self, inputs: Audio, *, tokens: bool = False) -> Encoded:
        """Encode clips.

        Args:
            inputs: waveforms (B, T) at `sample_rate_hz`, with their lengths.
            tokens: also return the frames.
        """
        spectra = self.log_mel(inputs.waveform_BT, inputs.length_B)
        normal_BML = self.observed(
            _normalize(spectra.log_mel_BML, spectra.length_B), axes=(1, 2), real_B=spectra.length_B
        )
        if self.training and self.spec_augment is not None:
            normal_BML = spec_augment(normal_BML, spectra.length_B, self.spec_augment)
        dtype = self.norm.weight.dtype
        frames_BLD, length_B = self.stem(normal_BML.to(dtype), spectra.length_B)
        mirror_BL = _mirror(length_B, frames_BLD.shape[1])
        for layer in self.layers:
            if self._checkpointing and self.training:
                frames_BLD = checkpoint(layer, frames_BLD, mirror_BL, use_reentrant=False)
            else:
                frames_BLD = layer(frames_BLD, mirror_BL)
        frames_BLD = self.norm(frames_BLD)
        mask_BL = length_mask(length_B, frames_BLD.shape[1])
        pooled_BD = masked_mean(frames_BLD, mask_BL)
        return Encoded(pooled_BD, frames_BLD, mask_BL) if tokens else Encoded(pooled_BD)

    def token_grid(self, canvas: Canvas) -> TokenGrid:
        """Return the frames one after another."""
        return TokenGrid(0, 1, -(-canvas.columns // _STRIDE))

    def preparation(self) -> dict[str, Any]:
        """Return the sampling rate."""
        return {"sample_rate_hz": self.sample_rate_hz}

    def blocks(self) -> list[Block]:
        """Return the convolutions, the recurrent layers and the last norm."""
        names = [name for name, _ in self.named_parameters()]
        prefixes = ["stem.", *(f"layers.{n}." for n in range(len(self.layers))), "norm."]
        groups = [[name for name in names if name.startswith(prefix)] for prefix in prefixes]
        return cut_into_blocks(self, groups)

    def set_checkpointing(self, enabled: bool) -> None:
        """Recompute the recurrent layers in backward."""
        self._checkpointing = enabled

    def rebuild_args(self) -> dict[str, Any]:
        """Return init arguments that rebuild this architecture."""
        return dict(self._init_args)


class _Stem(nn.Module):
    """Two convolutions that halve time and frequency each, and a projection of what is left."""

    def __init__(self, n_mels: int, channels: int, dim: int, *, dropout: float) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(1, channels, 3, stride=2, padding=1),
                nn.Conv2d(channels, channels, 3, stride=2, padding=1),
            ]
        )
        bands = -(-n_mels // _STRIDE)
        self.project = nn.Linear(channels * bands, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, mel_BML: Tensor, length_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return frames (B, L / 4, D) and how many of them are real; padding comes in as zeros."""
        maps_BCML = mel_BML.unsqueeze(1)
        for conv in self.convs:
            maps_BCML = torch.relu(conv(maps_BCML))
            length_B = (length_B + 1) // 2
            # The bias would leak from the padding into the last real frames.
            keep_BL = length_mask(length_B, maps_BCML.shape[-1])
            maps_BCML = maps_BCML * keep_BL[:, None, None].to(maps_BCML.dtype)
        frames_BLD = self.project(maps_BCML.flatten(1, 2).transpose(1, 2))
        return self.dropout(frames_BLD), length_B


class _Layer(nn.Module):
    """Norm, a GRU in each direction, their sum, dropout, and what came in added to it.

    The way back starts at a clip's own last frame, not at the padding's: it reads the clip turned
    round. A packed sequence does the same, but its backward pass takes quadratic time on a CPU
    (each step's slice has a gradient as large as the batch): 470 ms against 250 for one layer.
    """

    def __init__(self, dim: int, *, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.ahead = nn.GRU(dim, dim, batch_first=True)
        self.back = nn.GRU(dim, dim, batch_first=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, frames_BLD: Tensor, mirror_BL: Tensor) -> Tensor:
        """Return new frames (B, L, D)."""
        normal_BLD = self.norm(frames_BLD)
        ahead_BLD = self.ahead(normal_BLD)[0]
        back_BLD = _take(self.back(_take(normal_BLD, mirror_BL))[0], mirror_BL)
        return frames_BLD + self.dropout(ahead_BLD + back_BLD)


def _mirror(length_B: Tensor, size: int) -> Tensor:
    """Return the place of each frame (B, L) in its clip turned round; padding stays in place."""
    place_L = torch.arange(size, device=length_B.device)
    turned_BL = length_B.unsqueeze(1) - 1 - place_L
    return torch.where(turned_BL >= 0, turned_BL, place_L)


def _take(frames_BLD: Tensor, place_BL: Tensor) -> Tensor:
    return frames_BLD.gather(1, place_BL.unsqueeze(-1).expand_as(frames_BLD))


def _normalize(mel_BML: Tensor, length_B: Tensor) -> Tensor:
    """Give each band of each clip zero mean and unit variance over its real frames."""
    keep_B1L = length_mask(length_B, mel_BML.shape[-1]).unsqueeze(1)
    count_B11 = length_B.view(-1, 1, 1)
    mean_BM1 = (mel_BML * keep_B1L).sum(2, keepdim=True) / count_B11
    centred_BML = (mel_BML - mean_BM1) * keep_B1L
    variance_BM1 = centred_BML.square().sum(2, keepdim=True) / count_B11
    # A clip of one frame, or of digital silence, has no variance: it becomes zeros.
    return centred_BML * (variance_BM1 + 1e-4).rsqrt()
