"""What the audio models of transformers read, computed from a batch's waveforms on the device.

Each class stands for a feature extractor of transformers, takes its parameters from one, and gives
its numbers (tests compare them); the extractors themselves run clip by clip in NumPy.

Shapes: B samples, T waveform samples, M mel bands, C channels, L frames, F frequencies, D feature
width, W samples of a window.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchaudio.compliance.kaldi import get_mel_banks

from mmlight.encoders.mel import MelPower, length_mask


@dataclass(frozen=True)
class Features:
    """A model's input.

    Attributes:
        values: float32; the shape is the model's.
        length_B: real samples or frames of each clip, at least 1.
    """

    values: Tensor
    length_B: Tensor


class AudioFeatures(nn.Module, ABC):
    """Turns waveforms (B, T) and their lengths into a model's input, in float32.

    Attributes:
        axes: of the rows and columns of what the model reads; None where it reads waveforms.
        frame_ms: distance of two of the model's tokens, where these are frames.
        seconds: the length that clips are padded and cut to; None where the model takes any.
    """

    axes: tuple[int, int] | None = None
    frame_ms: float | None = None
    seconds: float | None = None

    @abstractmethod
    def forward(self, waveform_BT: Tensor, length_B: Tensor) -> Features:
        """Return the features."""


class NormalWaveform(AudioFeatures):
    """Waveforms of zero mean and unit variance over real samples (wav2vec2, HuBERT).

    Args:
        extractor: a ``Wav2Vec2FeatureExtractor``.
        config: the model's; clips shorter than what its convolutions need are padded.
    """

    def __init__(self, extractor: Any, config: Any) -> None:
        super().__init__()
        self.normalize = bool(extractor.do_normalize)
        self.shortest = 1
        for kernel, stride in zip(config.conv_kernel[::-1], config.conv_stride[::-1], strict=True):
            self.shortest = (self.shortest - 1) * stride + kernel
        self.frame_ms = 1000 * math.prod(config.conv_stride) / int(extractor.sampling_rate)

    def forward(self, waveform_BT: Tensor, length_B: Tensor) -> Features:
        """Return waveforms (B, T), zero past their ends."""
        wave_BT = fit_length(waveform_BT.float(), max(self.shortest, waveform_BT.shape[1]))
        mask_BT = length_mask(length_B, wave_BT.shape[1])
        if self.normalize:
            count_B1 = length_B.clamp(min=1).unsqueeze(1)
            mean_B1 = (wave_BT * mask_BT).sum(1, keepdim=True) / count_B1
            centred_BT = (wave_BT - mean_B1) * mask_BT
            variance_B1 = centred_BT.square().sum(1, keepdim=True) / count_B1
            wave_BT = centred_BT / (variance_B1 + 1e-7).sqrt()
        return Features(wave_BT * mask_BT, length_B.clamp(min=self.shortest))


class WhisperMel(AudioFeatures):
    """Whisper's log-mel: a fixed number of frames, cut off 8 decades below each clip's peak.

    Args:
        extractor: a ``WhisperFeatureExtractor``.
        config: the model's; clips longer than its positions are cut.
    """

    axes = (1, 2)

    def __init__(self, extractor: Any, config: Any) -> None:
        super().__init__()
        self.num_frames, self.hop = 2 * config.max_source_positions, int(extractor.hop_length)
        rate = int(extractor.sampling_rate)
        self.frame_ms, self.seconds = 1000 * 2 * self.hop / rate, self.num_frames * self.hop / rate
        self.power = MelPower(
            torch.from_numpy(extractor.mel_filters),
            n_fft=extractor.n_fft,
            hop=self.hop,
            window=extractor.n_fft,
            pad_mode="reflect",
        )

    def forward(self, waveform_BT: Tensor, length_B: Tensor) -> Features:
        """Return log-mels (B, M, L)."""
        wave_BT = fit_length(waveform_BT, self.num_frames * self.hop)
        log_BML = self.power(wave_BT)[..., :-1].clamp(min=1e-10).log10()
        log_BML = torch.maximum(log_BML, log_BML.amax((1, 2), keepdim=True) - 8)
        frames_B = (length_B + self.hop - 1) // self.hop
        return Features((log_BML + 4) / 4, frames_B.clamp(1, self.num_frames))


class KaldiFbank(AudioFeatures):
    """Kaldi's log-mel filter bank, normalised, of a fixed number of frames (AST).

    Args:
        extractor: an ``ASTFeatureExtractor``.
        config: the model's; the extractor says it all.
    """

    axes = (2, 1)
    window_W: Tensor
    filters_FM: Tensor

    def __init__(self, extractor: Any, config: Any) -> None:
        super().__init__()
        rate = extractor.sampling_rate
        self.num_frames = int(extractor.max_length)
        self.seconds = (self.num_frames - 1) / 100 + 0.025  # windows of 25 ms, 10 ms apart
        self.width, self.hop = rate * 25 // 1000, rate // 100
        self.n_fft = 1 << (self.width - 1).bit_length()
        self.mean: float = extractor.mean if extractor.do_normalize else 0.0
        self.std: float = 2 * extractor.std if extractor.do_normalize else 1.0
        banks_MF, _ = get_mel_banks(
            extractor.num_mel_bins, self.n_fft, float(rate), 20.0, 0.0, 100.0, -500.0, 1.0
        )
        # Kaldi's banks leave out the highest frequency.
        self.register_buffer(
            "filters_FM", torch.nn.functional.pad(banks_MF, (0, 1)).T, persistent=False
        )
        self.register_buffer(
            "window_W", torch.hann_window(self.width, periodic=False), persistent=False
        )

    def forward(self, waveform_BT: Tensor, length_B: Tensor) -> Features:
        """Return log-mels (B, L, M), which are zero before normalisation past a clip's end."""
        longest = (self.num_frames - 1) * self.hop + self.width
        with torch.autocast(waveform_BT.device.type, enabled=False):
            frames_BLW = fit_length(waveform_BT.float(), longest).unfold(1, self.width, self.hop)
            frames_BLW = frames_BLW - frames_BLW.mean(2, keepdim=True)
            before_BLW = torch.cat([frames_BLW[..., :1], frames_BLW[..., :-1]], dim=2)
            frames_BLW = (frames_BLW - 0.97 * before_BLW) * self.window_W.float()
            spectrum_BLF = torch.fft.rfft(frames_BLW, n=self.n_fft)
            power_BLF = spectrum_BLF.real.square() + spectrum_BLF.imag.square()
            mel_BLM = power_BLF @ self.filters_FM.float()
        log_BLM = mel_BLM.clamp(min=torch.finfo(torch.float32).eps).log()
        frames_B = ((length_B - self.width) // self.hop + 1).clamp(0, self.num_frames)
        real_BL1 = length_mask(frames_B, self.num_frames).unsqueeze(2)
        values_BLM = (log_BLM.masked_fill(~real_BL1, 0) - self.mean) / self.std
        return Features(values_BLM, frames_B.clamp(min=1))


class ClapMel(AudioFeatures):
    """CLAP's decibel mel spectrogram of clips repeated up to a fixed duration.

    Clips longer than the model's duration are cut to their beginning; transformers' extractor
    cuts at a random place, or stacks crops that a fused model reads beside the whole.

    Args:
        extractor: a ``ClapFeatureExtractor``.
        config: the model's; with fusion, the filter bank is another.
    """

    axes = (3, 2)

    def __init__(self, extractor: Any, config: Any) -> None:
        super().__init__()
        self.num_samples = int(extractor.nb_max_samples)
        self.seconds = self.num_samples / int(extractor.sampling_rate)
        self.padding: str = extractor.padding
        filters = extractor.mel_filters if config.enable_fusion else extractor.mel_filters_slaney
        self.power = MelPower(
            torch.from_numpy(filters),
            n_fft=extractor.fft_window_size,
            hop=extractor.hop_length,
            window=extractor.fft_window_size,
            pad_mode="reflect",
        )

    def forward(self, waveform_BT: Tensor, length_B: Tensor) -> Features:
        """Return log-mels (B, 1, L, M)."""
        wave_BT = fit_length(waveform_BT, self.num_samples)
        real_B1 = length_B.clamp(1, self.num_samples).unsqueeze(1)
        place_T = torch.arange(self.num_samples, device=wave_BT.device)
        end_B1 = real_B1
        if self.padding != "pad":
            wave_BT = wave_BT.gather(1, place_T % real_B1)
            whole_B1 = real_B1 * (self.num_samples // real_B1)
            end_B1 = whole_B1 if self.padding == "repeatpad" else real_B1 + self.num_samples
        log_BML = 10 * self.power(wave_BT * (place_T < end_B1)).clamp(min=1e-10).log10()
        values_B1LM = log_BML.transpose(1, 2).unsqueeze(1)
        return Features(values_B1LM, torch.full_like(length_B, values_B1LM.shape[2]))


def fit_length(waveform_BT: Tensor, size: int) -> Tensor:
    """Pad with zeros, or cut, to `size` samples."""
    return torch.nn.functional.pad(waveform_BT, (0, size - waveform_BT.shape[1]))
