"""Log-mel spectrograms from waveforms, on their device, and what is hidden of them in training.

Shapes: B samples, T waveform samples, F frequencies, M mel bands, L frames, N masks of one kind.
"""

import warnings
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torchaudio.functional import melscale_fbanks

from mmlight.errors import UserError

MelScale = Literal["htk", "slaney"]
MelLog = Literal["natural", "decibel"]


@dataclass(frozen=True)
class Spectra:
    """Log-mel spectrograms of a batch.

    Attributes:
        log_mel_BML: float32; frames past a clip's end are zero, the mean after normalisation.
        length_B: int64, real frames of each clip, at least 1.
    """

    log_mel_BML: Tensor
    length_B: Tensor


@dataclass(frozen=True)
class LogMelSettings:
    """How waveforms become log-mel spectrograms.

    Attributes:
        sample_rate_hz: sampling rate of the waveforms.
        window_ms: length of the Hann window.
        hop_ms: distance of two frames.
        n_fft: size of the Fourier transform; by default the next power of two of the window.
        n_mels: number of mel bands.
        f_min_hz: lowest frequency.
        f_max_hz: highest frequency; by default half the sampling rate.
        mel_scale: ``htk`` (torchaudio's default) or ``slaney`` (librosa's, with its area
            normalisation).
        log: ``natural`` logarithm of the power, or ``decibel`` (10 times the common logarithm).
        floor: smallest power that the logarithm sees.
        mean: mean of the log-mel values of the data, one number or one for each band.
        std: their standard deviation, likewise.
    """

    sample_rate_hz: int = 16000
    window_ms: float = 25.0
    hop_ms: float = 10.0
    n_fft: int | None = None
    n_mels: int = 64
    f_min_hz: float = 0.0
    f_max_hz: float | None = None
    mel_scale: MelScale = "htk"
    log: MelLog = "natural"
    floor: float = 1e-6
    mean: float | list[float] = -6.0
    std: float | list[float] = 4.0


class MelPower(nn.Module):
    """Mel power spectra: a short-time Fourier transform and a product with a filter bank.

    Args:
        filters_FM: the filter bank.
        n_fft: size of the Fourier transform.
        hop: distance of two frames in samples.
        window: length of the periodic Hann window in samples.
        pad_mode: what stands before the first and after the last sample.
    """

    filters_FM: Tensor
    window: Tensor

    def __init__(
        self,
        filters_FM: Tensor,
        *,
        n_fft: int,
        hop: int,
        window: int,
        pad_mode: Literal["constant", "reflect"],
    ) -> None:
        super().__init__()
        self.n_fft, self.hop, self.pad_mode = n_fft, hop, pad_mode
        self.register_buffer("window", torch.hann_window(window), persistent=False)
        self.register_buffer("filters_FM", filters_FM.float(), persistent=False)

    def forward(self, waveform_BT: Tensor) -> Tensor:
        """Return float32 mel powers (B, M, L) with L = 1 + T // hop, also under autocast."""
        with torch.autocast(waveform_BT.device.type, enabled=False):
            spectrum_BFL = torch.stft(
                waveform_BT.float(),
                self.n_fft,
                hop_length=self.hop,
                win_length=len(self.window),
                window=self.window.float(),
                pad_mode=self.pad_mode,
                return_complex=True,
            )
            power_BFL = spectrum_BFL.real.square() + spectrum_BFL.imag.square()
            mel_BML: Tensor = self.filters_FM.float().T @ power_BFL
            return mel_BML


class LogMel(nn.Module):
    """Normalised log-mel spectrograms; equal to torchaudio's ``MelSpectrogram`` before the log.

    Zeros are padded around a clip, never its mirror image, so that a clip gives the same frames
    whatever it is batched with.

    Raises:
        UserError: settings that contradict one another.
    """

    mean_M1: Tensor
    std_M1: Tensor

    def __init__(self, settings: LogMelSettings) -> None:
        super().__init__()
        s = settings
        window = round(s.sample_rate_hz * s.window_ms / 1000)
        hop = round(s.sample_rate_hz * s.hop_ms / 1000)
        n_fft = s.n_fft or 1 << max(window - 1, 1).bit_length()
        f_max = s.sample_rate_hz / 2 if s.f_max_hz is None else s.f_max_hz
        if hop < 1 or window < 1:
            raise UserError(f"mel: window_ms {s.window_ms} and hop_ms {s.hop_ms} must be above 0")
        if n_fft < window:
            raise UserError(f"mel.n_fft: {n_fft} is shorter than the window of {window} samples")
        if not 0 <= s.f_min_hz < f_max <= s.sample_rate_hz / 2:
            raise UserError(
                f"mel: f_min_hz {s.f_min_hz} and f_max_hz {f_max} must ascend between 0 and half "
                f"the sampling rate, {s.sample_rate_hz / 2}"
            )
        if s.log not in get_args(MelLog) or s.mel_scale not in get_args(MelScale):
            raise UserError(
                f"mel: log is one of {get_args(MelLog)} and mel_scale one of {get_args(MelScale)}"
            )
        if s.floor <= 0:
            raise UserError(f"mel.floor: {s.floor} must be above 0")
        # Its values are looked at, so that it must exist where a model is built on the meta device.
        with warnings.catch_warnings(), torch.device("cpu"):
            warnings.simplefilter("ignore")  # of empty bands, which are refused below
            filters_FM = melscale_fbanks(
                n_fft // 2 + 1,
                s.f_min_hz,
                f_max,
                s.n_mels,
                s.sample_rate_hz,
                norm="slaney" if s.mel_scale == "slaney" else None,
                mel_scale=s.mel_scale,
            )
        empty = int((filters_FM.amax(0) == 0).sum())
        if empty:
            raise UserError(
                f"mel.n_mels: {empty} of {s.n_mels} bands hold no frequency of a transform of "
                f"{n_fft}; use fewer bands or a larger n_fft"
            )
        self.settings, self.hop = settings, hop
        self.power = MelPower(filters_FM, n_fft=n_fft, hop=hop, window=window, pad_mode="constant")
        for name, value in (("mean", s.mean), ("std", s.std)):
            values = torch.tensor(value, dtype=torch.float32, device="cpu").reshape(-1, 1)
            if len(values) not in (1, s.n_mels):
                raise UserError(f"mel.{name}: {len(values)} values for {s.n_mels} bands")
            self.register_buffer(f"{name}_M1", values, persistent=False)
        if not bool((self.std_M1 > 0).all()):
            raise UserError(f"mel.std: {s.std} must be above 0")

    def forward(self, waveform_BT: Tensor, length_B: Tensor) -> Spectra:
        """Return spectra with 1 + T // hop frames."""
        power_BML = self.power(waveform_BT).clamp(min=self.settings.floor)
        log_BML = power_BML.log()
        if self.settings.log == "decibel":
            log_BML = 10 * power_BML.log10()
        normal_BML = (log_BML - self.mean_M1.float()) / self.std_M1.float()
        frames_B = 1 + length_B // self.hop
        mask_BL = length_mask(frames_B, normal_BML.shape[-1])
        return Spectra(normal_BML.masked_fill(~mask_BL.unsqueeze(1), 0), frames_B)


def length_mask(length_B: Tensor, size: int) -> Tensor:
    """Return the bool mask (B, size) that is True in the first `length_B` places."""
    return torch.arange(size, device=length_B.device) < length_B.unsqueeze(1)


@dataclass(frozen=True)
class SpecAugmentSettings:
    """What of a log-mel is hidden in training (SpecAugment, arXiv 1904.08779).

    Departs from the paper in leaving out the time warp, which it found to help least, and in giving
    widths as shares, so that they fit any number of bands and clips of any length. Its LD policy
    has 2 masks of 0.34 and 2 of 0.2 at most.

    Attributes:
        freq_masks: bands of frequencies that are hidden.
        freq_width: the widest of them, as a share of all mel bands; widths are drawn from 0 on.
        time_masks: stretches of time that are hidden.
        time_width: the longest of them, as a share of a clip's own frames.
    """

    freq_masks: int = 2
    freq_width: float = 0.2
    time_masks: int = 2
    time_width: float = 0.1

    def __post_init__(self) -> None:
        """Refuse values out of range and settings that hide nothing."""
        for kind in ("freq", "time"):
            count, width = getattr(self, f"{kind}_masks"), getattr(self, f"{kind}_width")
            if count < 0:
                raise UserError(f"spec_augment.{kind}_masks is {count}; it must be 0 or more")
            if not 0 < width <= 1:
                raise UserError(f"spec_augment.{kind}_width is {width}; it must be above 0 up to 1")
        if not self.freq_masks and not self.time_masks:
            raise UserError("spec_augment: freq_masks and time_masks are both 0; leave it out")


def spec_augment(values_BML: Tensor, length_B: Tensor, settings: SpecAugmentSettings) -> Tensor:
    """Set hidden places to the mean of the clip's real frames.

    Masks are drawn for each clip from torch's own generator, which the task seeds at each step.
    Padding stays as it is, and masks lie within a clip's real frames.

    Args:
        values_BML: log-mels.
        length_B: real frames of each clip.
        settings: what is hidden.
    """
    num_bands, num_frames = values_BML.shape[1:]
    real_BL = length_mask(length_B, num_frames)
    bands_B = torch.full_like(length_B, num_bands)
    hidden_BM = _draw(bands_B, num_bands, settings.freq_masks, width=settings.freq_width)
    hidden_BL = _draw(length_B, num_frames, settings.time_masks, width=settings.time_width)
    hidden_BML = (hidden_BM.unsqueeze(2) | hidden_BL.unsqueeze(1)) & real_BL.unsqueeze(1)
    count_B = length_B.clamp(min=1) * num_bands
    mean_B = (values_BML * real_BL.unsqueeze(1)).sum((1, 2)) / count_B
    return torch.where(hidden_BML, mean_B.to(values_BML.dtype).view(-1, 1, 1), values_BML)


def _draw(length_B: Tensor, size: int, count: int, *, width: float) -> Tensor:
    """Return a bool mask (B, size) of `count` stretches within the first `length_B` places."""
    uniform_2BN = torch.rand(2, len(length_B), count, device=length_B.device)
    most_B1 = (width * length_B).floor().unsqueeze(1)
    width_BN = (uniform_2BN[0] * (most_B1 + 1)).floor()
    start_BN = (uniform_2BN[1] * (length_B.unsqueeze(1) - width_BN + 1)).floor()
    place = torch.arange(size, device=length_B.device)
    begun = place >= start_BN.unsqueeze(2)
    return (begun & (place < (start_BN + width_BN).unsqueeze(2))).any(1)
