import numpy as np
import pytest

from mmlight.data.scenes.scene import COLOURS, RELATIONS, SHAPES, SceneRandom
from mmlight.data.scenes.sound import SAMPLE_RATE_HZ, say


def _spectrum(wave):
    return np.abs(np.fft.rfft(wave.astype(float) * np.hanning(len(wave))))


def test_every_word_can_be_said():
    for word in (*COLOURS, *SHAPES, *RELATIONS):
        wave = say(word, SceneRandom(0, split=0, sample=0))
        assert 0.15 < len(wave) / SAMPLE_RATE_HZ < 0.9


@pytest.mark.parametrize("sample", range(5))
def test_a_transcript_takes_one_to_two_seconds_and_is_not_clipped(sample):
    wave = say("yellow triangle above orange heart", SceneRandom(0, split=0, sample=sample))
    assert wave.dtype == np.int16 and 1 < len(wave) / SAMPLE_RATE_HZ < 2.2
    peak = np.abs(wave.astype(int)).max()
    assert 0.2 * 32767 < peak < 32767


def test_voices_differ_and_repeat():
    one, same, other = (
        say("red ring above blue star", SceneRandom(0, split=0, sample=s)) for s in (1, 1, 2)
    )
    assert np.array_equal(one, same)
    assert len(one) != len(other)


def test_the_hiss_of_s_lies_above_the_voice():
    # The same voice starts "circle" with S and "ring" with R.
    def centre_hz(word):
        wave = say(word, SceneRandom(3, split=0, sample=0))[300:650]
        spectrum = _spectrum(wave)
        hz = np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE_HZ)
        return (hz * spectrum**2).sum() / (spectrum**2).sum()

    assert centre_hz("circle") > 2400 > 1500 > centre_hz("ring")


def test_the_voice_rings_at_its_first_formant():
    # "moon" is M UW N: nothing of it lies above 1,500 Hz but faint overtones.
    for sample in range(3):
        spectrum = _spectrum(say("moon", SceneRandom(0, split=0, sample=sample)))
        hz = np.linspace(0, SAMPLE_RATE_HZ / 2, len(spectrum))
        assert (spectrum[hz < 600] ** 2).sum() > 0.6 * (spectrum**2).sum()
