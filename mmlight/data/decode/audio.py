"""Decodes an audio member into a mono waveform at the model's sampling rate."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from mmlight.data.decode.draw import Draws
from mmlight.data.decode.sound_file import SoundBytes
from mmlight.errors import UserError

Waveform = npt.NDArray[np.float32]

_MAX_CHANNELS = 64
_MAX_RATE_HZ = 10_000_000
# Full scale is 1. What reaches further than 60 dB beyond it holds whole numbers as floats (16 bits
# end at 32768), and would be a square wave when it is clipped.
_LOUDEST = 1e3
_BLOCK = 1 << 16


@dataclass
class AudioSettings:
    """How sounds become waveforms. Channels are averaged; resampling is SoX's high quality.

    Args:
        sample_rate_hz: sampling rate that the audio encoder expects; by default the audio tower's,
            else 16,000.
        max_seconds: longer clips are cut to this; only the part that is kept is decoded. By
            default the audio tower's own length (Whisper's 30 s), else 10.
        train_crop: which part of a long clip training keeps: a random one, the start or the middle.
        eval_crop: which part evaluation keeps.
        max_shift_s: training moves a clip by up to so many seconds to either side; what leaves at
            one end comes in at the other.
        max_gain_db: training makes a clip louder or softer by up to so many decibels; what would
            go beyond full scale is cut off.
        max_speed_change: training plays a clip faster or slower, pitch included, by a factor drawn
            from 1 - max_speed_change to 1 + max_speed_change (Ko et al., Interspeech 2015, take
            0.1 for speech).
    """

    sample_rate_hz: int | None = None
    max_seconds: float | None = None
    train_crop: Literal["random", "start", "center"] = "random"
    eval_crop: Literal["start", "center"] = "center"
    max_shift_s: float = 0.0
    max_gain_db: float = 0.0
    max_speed_change: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if self.rate_hz < 1:
            raise UserError(f"audio.sample_rate_hz must be 1 or more, not {self.sample_rate_hz}")
        if not 0 < self.seconds < math.inf:
            raise UserError(f"audio.max_seconds must be above 0, not {self.max_seconds}")
        if self.max_samples < 1:
            raise UserError(f"audio.max_seconds={self.max_seconds} is less than one sample")
        for name in ("max_shift_s", "max_gain_db"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"audio.{name} must be 0 or more, not {getattr(self, name)}")
        if not 0 <= self.max_speed_change <= 0.5:
            raise UserError(
                f"audio.max_speed_change must be 0 to 0.5, not {self.max_speed_change} (0.1 is "
                "usual)"
            )

    @property
    def rate_hz(self) -> int:
        """Sampling rate of waveforms."""
        return 16_000 if self.sample_rate_hz is None else self.sample_rate_hz

    @property
    def seconds(self) -> float:
        """Longest waveform."""
        return 10.0 if self.max_seconds is None else self.max_seconds

    @property
    def max_samples(self) -> int:
        """Most samples of a waveform."""
        return round(self.seconds * self.rate_hz)

    def complete(self) -> "AudioSettings":
        """Return the same settings with nothing left out."""
        return replace(self, sample_rate_hz=self.rate_hz, max_seconds=self.seconds)


def load_audio(data: bytes, settings: AudioSettings, *, draws: Draws | None) -> Waveform:
    """Decode, crop, mix and resample one clip (FLAC, WAV, OGG, MP3 and what else libsndfile reads).

    As training does with `draws`, as evaluation without.

    Returns:
        (T,) float32 in [-1, 1], at least one sample long.

    Raises:
        Exception: whatever the decoder says about a broken file.
    """
    crop = settings.eval_crop if draws is None else settings.train_crop
    with _open(data) as file:
        rate = int(file.samplerate)
        total = int(file.frames)
        played_hz = float(rate)
        if draws is not None and settings.max_speed_change > 0:
            change = settings.max_speed_change
            played_hz *= draws.uniform(1 - change, 1 + change)
        wanted = min(total, math.ceil(settings.max_samples * played_hz / settings.rate_hz))
        start = 0
        if wanted < total:
            spare = total - wanted
            if crop == "random":
                assert draws is not None
                start = draws.integer(spare + 1)
            elif crop == "center":
                start = spare // 2
            file.seek(start)
        frames = file.read(wanted, dtype="float32", always_2d=True)
        # encoders of MP3 are off by a frame in what they state
        if len(frames) < wanted and file.format != "MP3":
            raise ValueError(f"cut short: {start + len(frames)} of {total} samples")
    if len(frames) == 0:
        raise ValueError("no audio samples")
    mono = _mix(frames)
    if played_hz != settings.rate_hz:
        # 967 clips of 7 s per CPU-second; torchaudio's resampling manages 411.
        mono = soxr.resample(mono, played_hz, settings.rate_hz, quality="HQ")
        if len(mono) == 0:  # a clip shorter than one sample at the lower rate
            raise ValueError("no audio samples after resampling")
    mono = mono[: settings.max_samples]
    if draws is not None:
        mono = _augment(mono, settings, draws=draws)
    return np.clip(mono, -1.0, 1.0, dtype=np.float32)


def check_audio(data: bytes) -> None:
    """Decode a whole clip, of which `load_audio` may decode a part.

    Raises:
        Exception: what `load_audio` would raise about some part of it.
    """
    with _open(data) as file:
        total, rate, decoded = int(file.frames), int(file.samplerate), 0
        while len(
            frames := file.read(min(_BLOCK, total - decoded), always_2d=True, dtype="float32")
        ):
            _mix(frames)
            decoded += len(frames)
        if decoded < total and file.format != "MP3":
            raise ValueError(f"cut short: {decoded} of {total} samples")
    if decoded < rate // 100:  # perhaps too short to resample
        load_audio(data, AudioSettings(), draws=None)


def _open(data: bytes) -> soundfile.SoundFile:
    file = soundfile.SoundFile(SoundBytes(data))
    if file.channels > _MAX_CHANNELS:
        raise ValueError(f"{file.channels} channels are more than {_MAX_CHANNELS}")
    if file.samplerate > _MAX_RATE_HZ:
        raise ValueError(f"a sampling rate of {file.samplerate} Hz is more than {_MAX_RATE_HZ}")
    return file


def _mix(frames: Waveform) -> Waveform:
    """Return the mean of the channels (T, channels)."""
    mono: Waveform = frames[:, 0] if frames.shape[1] == 1 else frames.mean(axis=1)
    loudest = max(float(mono.max()), -float(mono.min()))
    if not loudest <= _LOUDEST:
        is_finite = np.isfinite(mono).all()
        raise ValueError(
            f"the waveform reaches {loudest:.3g} (full scale is 1)"
            if is_finite
            else "the waveform is not finite"
        )
    return mono


def _augment(mono: Waveform, settings: AudioSettings, *, draws: Draws) -> Waveform:
    """Move a clip in time and change its loudness."""
    if settings.max_shift_s > 0:
        seconds = draws.uniform(-settings.max_shift_s, settings.max_shift_s)
        mono = np.roll(mono, round(seconds * settings.rate_hz))
    if settings.max_gain_db > 0:
        mono = mono * np.float32(
            10 ** (draws.uniform(-settings.max_gain_db, settings.max_gain_db) / 20)
        )
    return mono
