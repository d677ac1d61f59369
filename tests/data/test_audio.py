import io

import numpy as np
import pytest
import soundfile
from shard_files import sound

from mmlight.data.decode.audio import AudioSettings, load_audio
from mmlight.data.decode.draw import Draws
from mmlight.errors import UserError

FORMATS = ["FLAC", "WAV", "OGG", "MP3"]


def draws(sample: int = 0) -> Draws:
    return Draws("audio", seed=0, epoch=0, sample=sample)


def written(wave: np.ndarray, rate_hz: int, format: str = "FLAC", **options) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, rate_hz, format=format, **options)
    return file.getvalue()


def tone(seconds: float, rate_hz: int, pitch_hz: float = 440) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * pitch_hz * np.arange(int(seconds * rate_hz)) / rate_hz)


@pytest.mark.parametrize("format", FORMATS)
def test_decodes_mixes_and_resamples(format):
    stereo = np.stack([tone(1, 44_100), np.zeros(44_100)], axis=1)
    wave = load_audio(written(stereo, 44_100, format), AudioSettings(), draws=None)
    assert wave.dtype == np.float32 and wave.ndim == 1
    assert abs(len(wave) - 16_000) <= 1
    expected = tone(1, 16_000)[: len(wave)] / 2
    middle = slice(2000, 14_000)
    tolerance = 1e-3 if format in ("FLAC", "WAV") else 0.05
    assert np.abs(wave[middle] - expected[middle]).max() < tolerance


def test_the_own_rate_is_left_alone():
    data = sound(0.1)
    wave = load_audio(data, AudioSettings(sample_rate_hz=8000), draws=None)
    assert np.array_equal(wave, soundfile.read(io.BytesIO(data), dtype="float32")[0])


@pytest.mark.parametrize("format", ["FLAC", "WAV"])
def test_crops_take_the_part_asked_for(format):
    ramp = np.arange(8000) / 8000
    data = written(ramp, 8000, format, subtype="PCM_24")

    def first(crop: str) -> float:
        settings = AudioSettings(sample_rate_hz=8000, max_seconds=0.25, eval_crop=crop)
        wave = load_audio(data, settings, draws=None)
        assert len(wave) == 2000
        return float(wave[0])

    assert first("start") == pytest.approx(0, abs=1e-3)
    assert first("center") == pytest.approx(3000 / 8000, abs=1e-3)


@pytest.mark.parametrize("format", FORMATS)
def test_random_crops_depend_on_the_sample(format):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 16_000)
    data = written(noise, 16_000, format)
    settings = AudioSettings(max_seconds=0.2)
    one, again, other = (load_audio(data, settings, draws=draws(n)) for n in (1, 1, 2))
    assert len(one) == 3200
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_random_starts_are_spread_over_the_clip():
    data = written(np.arange(8000) / 8000, 8000)
    settings = AudioSettings(sample_rate_hz=8000, max_seconds=0.5)
    starts = [load_audio(data, settings, draws=draws(n))[0] for n in range(200)]
    assert min(starts) < 0.03 and max(starts) > 0.47
    assert abs(np.mean(starts) - 0.25) < 0.03


def test_a_short_clip_is_not_padded():
    assert len(load_audio(sound(0.05), AudioSettings(sample_rate_hz=8000), draws=draws())) == 400


def test_truncated_and_foreign_bytes_raise():
    data = sound(1.0)
    for broken in (data[: len(data) // 2], b"", b"hello", written(np.zeros(0), 8000, "WAV")):
        with pytest.raises(Exception):  # noqa: B017  decoders raise what they like
            load_audio(broken, AudioSettings(), draws=None)


def test_what_is_not_finite_raises():
    wave = np.array([0.0, np.nan, 0.0], np.float32)
    with pytest.raises(ValueError, match="not finite"):
        load_audio(written(wave, 16_000, "WAV", subtype="FLOAT"), AudioSettings(), draws=None)


def test_floats_past_one_are_clipped():
    wave = np.full(100, 3.0, np.float32)
    data = written(wave, 16_000, "WAV", subtype="FLOAT")
    assert load_audio(data, AudioSettings(), draws=None).max() == 1.0


@pytest.mark.parametrize(
    "settings",
    [
        {"sample_rate_hz": 0},
        {"max_seconds": 0.0},
        {"max_seconds": float("inf")},
        {"max_seconds": 1e-6},
    ],
)
def test_wrong_settings_are_refused(settings):
    with pytest.raises(UserError, match=r"audio\."):
        AudioSettings(**settings)


def test_training_shifts_by_no_more_than_asked_and_loses_nothing():
    plain = written(np.arange(800) / 800, 8000, subtype="PCM_24")
    settings = AudioSettings(sample_rate_hz=8000, max_shift_s=0.01)
    whole = load_audio(plain, AudioSettings(sample_rate_hz=8000), draws=None)
    shifts = set()
    for sample in range(40):
        wave = load_audio(plain, settings, draws=draws(sample))
        place = int(wave.argmin())
        assert np.array_equal(np.roll(whole, place), wave)
        shifts.add(place if place < 400 else place - 800)
    assert min(shifts) >= -80 and max(shifts) <= 80 and len(shifts) > 20
    assert np.array_equal(load_audio(plain, settings, draws=None), whole)
    first, again = (load_audio(plain, settings, draws=draws(7)) for _ in range(2))
    assert np.array_equal(first, again)


def test_training_changes_the_loudness_by_no_more_than_asked():
    settings = AudioSettings(sample_rate_hz=8000, max_gain_db=6)
    data = sound(0.1)
    plain = load_audio(data, settings, draws=None)
    gains_db = []
    for sample in range(40):
        wave = load_audio(data, settings, draws=draws(sample))
        assert wave.dtype == np.float32 and np.abs(wave).max() <= 1
        gains_db.append(20 * np.log10(np.median(np.abs(wave)) / np.median(np.abs(plain))))
    assert -6.1 < min(gains_db) < -3 and 3 < max(gains_db) < 6.1


def test_crops_stay_as_they_were_beside_other_augmentation():
    data = written(np.arange(1600) / 1600, 8000, subtype="PCM_24")
    crop = AudioSettings(sample_rate_hz=8000, max_seconds=0.1)
    both = AudioSettings(sample_rate_hz=8000, max_seconds=0.1, max_shift_s=0.05)
    for sample in range(5):
        plain, moved = (load_audio(data, s, draws=draws(sample)) for s in (crop, both))
        assert sorted(plain) == sorted(moved)


@pytest.mark.parametrize("name", ["max_shift_s", "max_gain_db"])
def test_negative_augmentation_is_refused(name):
    with pytest.raises(UserError, match=f"audio.{name} must be 0 or more"):
        AudioSettings(**{name: -1.0})


def test_training_plays_clips_faster_and_slower_with_their_pitch():
    data = written(tone(1, 16_000, 1000), 16_000)
    settings = AudioSettings(max_speed_change=0.1)
    waves = [load_audio(data, settings, draws=draws(sample)) for sample in range(30)]
    factors = np.array([16_000 / len(wave) for wave in waves])
    assert factors.min() < 0.93 and factors.max() > 1.07
    assert (abs(factors - 1) < 0.1 + 1e-3).all()
    for wave, factor in zip(waves[:5], factors, strict=False):
        peak = np.abs(np.fft.rfft(wave * np.hanning(len(wave)))).argmax() * 16_000 / len(wave)
        assert peak == pytest.approx(1000 * factor, abs=2)
    assert np.array_equal(load_audio(data, settings, draws=draws(3)), waves[3])
    assert len(load_audio(data, settings, draws=None)) == 16_000


def test_a_clip_that_is_played_faster_still_fills_what_is_kept():
    data = written(tone(2, 16_000), 16_000)
    settings = AudioSettings(max_seconds=1.5, max_speed_change=0.2)
    lengths = [len(load_audio(data, settings, draws=draws(sample))) for sample in range(20)]
    assert max(lengths) == 24_000 and min(lengths) >= 23_998


def test_a_speed_out_of_range_is_refused():
    with pytest.raises(UserError, match="max_speed_change must be 0 to"):
        AudioSettings(max_speed_change=1.1)
