"""Decodes an audio member into a mono waveform at the model's sampling rate."""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from mmlight.data.decode.draw import Draws, evenly_spaced
from mmlight.data.decode.sound_file import SoundBytes
from mmlight.errors import UserError

Waveform = npt.NDArray[np.float32]

_MAX_CHANNELS = 64
_MAX_RATE_HZ = 10_000_000
# Full scale is 1. What reaches further than 60 dB beyond it holds whole numbers as floats (16 bits
# end at 32768), and would be a square wave when it is clipped.
_LOUDEST = 1e3
_BLOCK = 1 << 16


@dataclass(frozen=True)
class WindowSettings:
    """How a long clip is cut into windows, each `max_seconds` long, which don't depend on chance.

    The first begins where the clip does, and the last ends where it ends: it is shorter than the
    others, and counts less in a mean.

    Args:
        hop_s: seconds from one window's beginning to the next one's; by default their length, so
            that none overlaps another.
        most: windows of one clip; those of a longer one are evenly spaced over it.
        training: training hears all windows, too, not the one part that `train_crop` says.
    """

    hop_s: float | None = None
    most: int = 32
    training: bool = False

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if self.hop_s is not None and not 0 < self.hop_s < math.inf:
            raise UserError(f"audio.windows.hop_s must be above 0, not {self.hop_s}")
        if self.most < 1:
            raise UserError(f"audio.windows.most must be 1 or more, not {self.most}")


@dataclass
class AudioSettings:
    """How sounds become waveforms. Channels are averaged; resampling is SoX's high quality.

    Args:
        sample_rate_hz: sampling rate that the audio encoder expects; by default the audio tower's,
            else 16,000.
        windows: evaluation hears all of a clip, in windows of `max_seconds`, whose features the
            tower pools; None hears the part that `eval_crop` says.
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
    windows: WindowSettings | None = None
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
        windows = self.windows
        # What is left open may become longer: the audio tower's own length.
        hop_s, length_s = (windows.hop_s if windows is not None else None), self.max_seconds
        if hop_s is not None and length_s is not None and hop_s > length_s:
            raise UserError(
                f"audio.windows.hop_s: {hop_s} is more than max_seconds ({length_s}), so that what "
                "lies between two windows would not be heard"
            )
        if windows is not None and self.eval_crop != "center":
            raise UserError("audio.eval_crop has no effect with audio.windows: all is heard")
        if windows is not None and windows.training and self.train_crop != "random":
            raise UserError("audio.train_crop has no effect with audio.windows.training")
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
        windows = self.windows
        if windows is not None and windows.hop_s is None:
            windows = replace(windows, hop_s=self.seconds)
        return replace(self, sample_rate_hz=self.rate_hz, max_seconds=self.seconds, windows=windows)


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
        played_hz = _played_hz(file, settings, draws=draws)
        wanted = math.ceil(settings.max_samples * played_hz / settings.rate_hz)
        start = 0
        if (spare := int(file.frames) - wanted) > 0:
            if crop == "random":
                assert draws is not None
                start = draws.integer(spare + 1)
            elif crop == "center":
                start = spare // 2
        return _part(file, start, wanted, settings, played_hz=played_hz, draws=draws)


def load_windows(data: bytes, settings: AudioSettings, *, draws: Draws | None) -> list[Waveform]:
    """Decode the windows of a clip as `load_audio` does; one part of it where there are none.

    Raises:
        Exception: as `load_audio`.
    """
    windows = settings.windows
    if windows is None or (draws is not None and not windows.training):
        return [load_audio(data, settings, draws=draws)]
    with _open(data) as file:
        played_hz = _played_hz(file, settings, draws=draws)
        wanted = math.ceil(settings.max_samples * played_hz / settings.rate_hz)
        hop = played_hz * (settings.seconds if windows.hop_s is None else windows.hop_s)
        count = 1 + max(0, math.ceil((int(file.frames) - wanted) / hop))
        starts = [round(place * hop) for place in evenly_spaced(count, windows.most)]
        read = partial(_part, file, settings=settings, played_hz=played_hz, draws=draws)
        return [read(start, wanted) for start in starts]


def _played_hz(file: soundfile.SoundFile, settings: AudioSettings, *, draws: Draws | None) -> float:
    """Return the sampling rate that a file is played at; training may change it."""
    change = settings.max_speed_change
    if draws is None or change == 0:
        return float(file.samplerate)
    return float(file.samplerate) * draws.uniform(1 - change, 1 + change)


def _part(
    file: soundfile.SoundFile,
    start: int,
    wanted: int,
    settings: AudioSettings,
    *,
    played_hz: float,
    draws: Draws | None,
) -> Waveform:
    """Decode `wanted` frames of a file, or what there is from `start` on."""
    total = int(file.frames)
    wanted = min(wanted, total - start)
    if start != file.tell():
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
