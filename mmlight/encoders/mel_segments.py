"""A convolutional network that hears a sound in overlapping segments.

Shapes: B samples, M mel bands, L frames, S segments, C channels, D feature width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
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

# A window of 1,024 samples, a hop of 512.
_DEFAULT_MEL = LogMelSettings(
    sample_rate_hz=22050, window_ms=46.44, hop_ms=23.22, n_fft=1024, n_mels=60
)
_POOL = 3
_DELTA = 4


class MelSegments(Encoder):
    """The CNN of Piczak (MLSP 2015) on log-mels and their slope, a token for each segment.

    Filters nearly as high as the spectrogram and 6 frames wide, a maximum over 4 bands and 3
    frames, filters of 3 places, a maximum over 3 of these, then hidden layers on what a segment
    has left. `mmlight.tasks.classification.Classification` with `votes` trains each segment and
    averages their probabilities, as the paper does.

    Departs from the paper in one pass over the whole clip, which computes what segments share
    once, so that they begin a multiple of 9 frames apart (18 where the paper's short ones are 20).
    A clip that is shorter than a segment counts as one with silence after it. A clip gives the
    same tokens whatever it is batched with.

    Args:
        mel: how waveforms become spectrograms.
        segment_frames: length of a segment: 41 are the paper's short ones, 101 its long ones.
        segment_hop: distance of two segments in frames, a multiple of 9.
        filters: number C of filters of both convolutions.
        hidden: widths of the layers behind them; the last is D.
        dropout: rate after the first maximum and after each hidden layer but the last, which is
            followed by the head's own dropout.
        spec_augment: what of the spectrogram is hidden in training; None hides nothing.

    Attributes:
        sample_rate_hz: sampling rate that waveforms must have.
        frame_ms: distance of two tokens.

    Raises:
        UserError: settings out of range.
    """

    modality = "audio"

    def __init__(
        self,
        *,
        mel: LogMelSettings = _DEFAULT_MEL,
        segment_frames: int = 41,
        segment_hop: int = 18,
        filters: int = 80,
        hidden: Sequence[int] = (5000, 5000),
        dropout: float = 0.5,
        spec_augment: SpecAugmentSettings | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("filters", filters), *(("hidden", width) for width in hidden or [0])):
            if value < 1:
                raise UserError(f"{name}: {value} must be 1 or more")
        if not 0 <= dropout < 1:
            raise UserError(f"dropout: {dropout} must be at least 0 and below 1")
        if segment_hop < 1 or segment_hop % _POOL**2:
            raise UserError(f"segment_hop: {segment_hop} must be a multiple of {_POOL**2} frames")
        # What is left of a segment after both convolutions and both maxima.
        places = ((segment_frames - 5) // _POOL - 2) // _POOL
        if places < 1:
            raise UserError(f"segment_frames: {segment_frames} must be 20 or more")
        if mel.n_mels < 7:
            raise UserError(f"mel.n_mels: {mel.n_mels} must be 7 or more")
        self.log_mel = LogMel(mel)
        self.sample_rate_hz = mel.sample_rate_hz
        self.segment_frames, self.segment_hop = segment_frames, segment_hop
        self.frame_ms = mel.hop_ms * segment_hop
        self.out_dim = hidden[-1]
        self.spec_augment = spec_augment
        self.first = nn.Conv2d(2, filters, (mel.n_mels - 3, 6))
        self.second = nn.Conv2d(filters, filters, (1, 3))
        self.stride = segment_hop // _POOL**2
        widths = [filters, *hidden]
        self.layers = nn.ModuleList(
            nn.Conv1d(before, after, places if n == 0 else 1, stride=self.stride if n == 0 else 1)
            for n, (before, after) in enumerate(zip(widths, hidden, strict=False))
        )
        self.dropout = nn.Dropout(dropout)
        self._checkpointing = False
        self._init_args = {
            "mel": mel,
            "segment_frames": segment_frames,
            "segment_hop": segment_hop,
            "filters": filters,
            "hidden": list(hidden),
            "dropout": dropout,
            "spec_augment": spec_augment,
        }

    def forward(self, inputs: Audio, *, tokens: bool = False) -> Encoded:
        """Encode clips.

        Args:
            inputs: waveforms (B, T) at `sample_rate_hz`, with their lengths.
            tokens: also return the segments.
        """
        spectra = self.log_mel(inputs.waveform_BT, inputs.length_B)
        mel_BML = self.observed(spectra.log_mel_BML, axes=(1, 2), real_B=spectra.length_B)
        if self.training and self.spec_augment is not None:
            mel_BML = spec_augment(mel_BML, spectra.length_B, self.spec_augment)
        mel_BML = F.pad(mel_BML, (0, max(0, self.segment_frames - mel_BML.shape[2])))
        maps_BCML = torch.stack([mel_BML, _slope(mel_BML)], 1).to(self.first.weight.dtype)
        if self._checkpointing and self.training:
            segments_BSD = checkpoint(self._segments, maps_BCML, use_reentrant=False)
        else:
            segments_BSD = self._segments(maps_BCML)
        count_B = (spectra.length_B - self.segment_frames).clamp(min=0) // self.segment_hop + 1
        mask_BS = length_mask(count_B, segments_BSD.shape[1])
        pooled_BD = masked_mean(segments_BSD, mask_BS)
        return Encoded(pooled_BD, segments_BSD, mask_BS) if tokens else Encoded(pooled_BD)

    def _segments(self, maps_BCML: Tensor) -> Tensor:
        # Four bands are left, over which the maximum goes.
        maps_BC1L = F.max_pool2d(torch.relu(self.first(maps_BCML)), (4, _POOL))
        maps_BC1L = F.max_pool2d(torch.relu(self.second(self.dropout(maps_BC1L))), (1, _POOL))
        segments_BDS = maps_BC1L.squeeze(2)
        for number, layer in enumerate(self.layers):
            if number:
                segments_BDS = self.dropout(segments_BDS)
            segments_BDS = torch.relu(layer(segments_BDS))
        return segments_BDS.mT

    def token_grid(self, canvas: Canvas) -> TokenGrid:
        """Return the segments one after another."""
        columns = max(canvas.columns, self.segment_frames)
        return TokenGrid(0, 1, (columns - self.segment_frames) // self.segment_hop + 1)

    def preparation(self) -> dict[str, Any]:
        """Return the sampling rate."""
        return {"sample_rate_hz": self.sample_rate_hz}

    def blocks(self) -> list[Block]:
        """Return the convolutions and the hidden layers."""
        names = [name for name, _ in self.named_parameters()]
        prefixes = ["first.", "second.", *(f"layers.{n}." for n in range(len(self.layers)))]
        return cut_into_blocks(self, [[n for n in names if n.startswith(p)] for p in prefixes])

    def set_checkpointing(self, enabled: bool) -> None:
        """Recompute all layers in backward."""
        self._checkpointing = enabled

    def rebuild_args(self) -> dict[str, Any]:
        """Return init arguments that rebuild this architecture."""
        return dict(self._init_args)


def _slope(mel_BML: Tensor) -> Tensor:
    """Return the slope of the straight line through nine frames, zeros beyond the clip's ends."""
    place = torch.arange(-_DELTA, _DELTA + 1, dtype=mel_BML.dtype, device=mel_BML.device)
    weight = (place / place.square().sum()).expand(mel_BML.shape[1], 1, -1)
    return F.conv1d(mel_BML, weight, padding=_DELTA, groups=mel_BML.shape[1])
