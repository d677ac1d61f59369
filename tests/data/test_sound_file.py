"""A sound file that is cut is bad, one from a pipe is whole."""

import io
import struct

import numpy as np
import pytest
import soundfile

from mmlight.data import faults
from mmlight.data.decode import probe
from mmlight.data.decode.audio import AudioSettings, load_audio
from mmlight.data.decode.draw import Draws
from mmlight.data.decode.sound_file import complete
from mmlight.data.decode.sound_frames import complete_mp3

RATE_HZ = 16_000
NUM_SAMPLES = 4 * RATE_HZ
ENDINGS = {
    "WAV": "wav", "RF64": "wav", "WAVEX": "wav", "AIFF": "aiff", "AU": "au", "NIST": "sph",
    "FLAC": "flac", "OGG": "ogg", "MP3": "mp3",
}  # fmt: skip
KINDS = [
    ("WAV", None), ("WAV", "FLOAT"), ("WAV", "IMA_ADPCM"), ("WAVEX", None), ("RF64", None),
    ("AIFF", None), ("AU", None), ("NIST", None), ("FLAC", None), ("OGG", "VORBIS"),
    ("OGG", "OPUS"), ("MP3", None),
]  # fmt: skip


def written(format: str, subtype: str | None = None, *, rate_hz: int = RATE_HZ) -> bytes:
    noise = 0.1 * np.random.default_rng(0).standard_normal(NUM_SAMPLES)
    wave = 0.4 * np.sin(np.arange(NUM_SAMPLES) * 0.05) + noise
    file = io.BytesIO()
    soundfile.write(file, wave, rate_hz, format=format, subtype=subtype)
    return file.getvalue()


def length(data: bytes) -> int:
    settings = AudioSettings(sample_rate_hz=RATE_HZ, max_seconds=1000)
    return len(load_audio(data, settings, draws=None))


def fault(data: bytes, format: str = "WAV") -> str | None:
    # by the extension, of which check knows those that training reads by default
    return faults.fault({"au": "wav", "sph": "wav"}.get(ENDINGS[format], ENDINGS[format]), data)


@pytest.mark.parametrize(("format", "subtype"), KINDS)
def test_training_and_check_refuse_a_file_that_is_cut(format, subtype):
    data = written(format, subtype)
    assert fault(data, format) is None
    for tag in (b"", b"TAG" + bytes(125)):
        assert abs(length(data + tag) - NUM_SAMPLES) < 2000
    for cut in (len(data) // 2, len(data) // 3, len(data) - 1, len(data) - 100):
        with pytest.raises(Exception):  # noqa: B017  decoders raise what they like
            load_audio(data[:cut], AudioSettings(), draws=None)
        assert fault(data[:cut], format)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000, 0x7F000024])
def test_a_wav_file_from_a_pipe_is_whole(size):
    data = bytearray(written("WAV"))
    data[4:8] = data[40:44] = struct.pack("<I", size)
    assert length(bytes(data)) == NUM_SAMPLES
    assert fault(bytes(data)) is None
    assert probe.duration_s(bytes(data)) == 4.0


def test_an_empty_wav_file_is_not_taken_for_one_from_a_pipe():
    file = io.BytesIO()
    soundfile.write(file, np.zeros(0), RATE_HZ, format="WAV")
    tagged = file.getvalue() + b"LIST\x04\0\0\0INFO"
    data = tagged[:4] + struct.pack("<I", len(tagged) - 8) + tagged[8:]
    assert "no audio samples" in (fault(data) or "")


def unknown_flac() -> bytes:
    data = bytearray(written("FLAC"))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    return bytes(data)


def test_a_flac_file_from_a_pipe_is_whole():
    data = unknown_flac()
    assert complete(data) == written("FLAC")
    assert length(data) == NUM_SAMPLES
    assert fault(data, "FLAC") is None
    for cut in (len(data) - 1, len(data) - 5000, len(data) // 2, 60):
        assert "cut short" in (fault(data[:cut], "FLAC") or "")


def without_length(data: bytes) -> bytes:
    """Return an MP3 file without its first frame, which tells the length."""
    second = data.index(data[:2], 4)
    assert b"Xing" in data[:second] or b"Info" in data[:second]
    return data[second:]


@pytest.mark.parametrize("rate_hz", [8000, 22_050, 44_100])
def test_an_mp3_file_without_a_length_has_the_length_of_its_frames(rate_hz):
    # half noise, half silence: variable bit rate, of which libmpg123 guesses wrong
    wave = np.concatenate([np.random.default_rng(0).uniform(-0.5, 0.5, rate_hz), np.zeros(rate_hz)])
    file = io.BytesIO()
    soundfile.write(file, wave, rate_hz, format="MP3", bitrate_mode="VARIABLE")
    whole = file.getvalue()
    data = b"ID3\x03\0\0\0\0\0\x0a" + bytes(10) + without_length(whole) + b"TAG" + bytes(125)
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        assert abs(file.frames / rate_hz - 2) > 0.25, "the guess is right: this tests nothing"
    assert probe.duration_s(data) == pytest.approx(2, abs=0.2)
    assert fault(data, "MP3") is None
    settings = AudioSettings(sample_rate_hz=rate_hz, max_seconds=0.5)
    for sample in range(20):
        draws = Draws("audio", seed=0, epoch=0, sample=sample)
        assert len(load_audio(data, settings, draws=draws)) == rate_hz // 2
    assert "cut short" in (fault(without_length(whole)[:-7], "MP3") or "")


def test_other_tags_and_junk_within_an_mp3_file_are_passed_over():
    data = without_length(written("MP3"))
    second = data.index(data[:2], 4)
    tag = b"APETAGEX" + struct.pack("<IIII", 2000, 40, 0, 0) + bytes(8) + b"\xff\xe0\xff\xfb" * 10
    expected = length(data)
    assert abs(length(data + tag) - expected) <= 1
    inside = data[:second] + b"ID3\x03\0\0\0\0\0\x0a" + bytes(10) + data[second:]
    assert abs(length(inside) - expected) <= 1


def test_two_mp3_files_behind_one_another_are_whole():
    data = written("MP3")
    assert complete_mp3(data + data) == data + data


def test_chained_ogg_files_and_what_stands_behind_the_last_page_are_whole():
    data = written("OGG", "VORBIS")
    assert complete(data + data) == data + data
    assert complete(data + bytes(300)) == data + bytes(300)


def test_an_ogg_file_without_a_last_page_is_cut():
    data = written("OGG", "VORBIS")
    with pytest.raises(ValueError, match="no Ogg page says it is the last"):
        complete(data[: data.rindex(b"OggS")])


def test_every_damaged_bit_of_ogg_and_flac_is_found():
    draw = np.random.default_rng(0)
    for format, subtype in (("OGG", "VORBIS"), ("OGG", "OPUS"), ("FLAC", None)):
        data = written(format, subtype)
        for place in draw.integers(100 if format == "OGG" else 8200, len(data), 30):
            damaged = bytearray(data)
            damaged[place] ^= 1 << int(draw.integers(8))
            assert fault(bytes(damaged), format), (format, place)


@pytest.mark.filterwarnings("error")  # a traceback within a callback of libsndfile
@pytest.mark.parametrize("format", list(ENDINGS))
def test_random_bytes_behind_a_header_end_in_time(format):
    data = written(format)
    draw = np.random.default_rng(0)
    for start in (4, 12, 30, 60, 200):
        fault(data[:start] + draw.bytes(20_000), format)
        fault(data[:start] + bytes(20_000), format)
        fault(data[:start] + b"\xff" * 20_000, format)
        fault(data[:start], format)


def test_values_that_training_cannot_hold_are_bad_in_both():
    for wave in ([0, np.nan], [np.inf, 0], [3e38, -3e38]):
        file = io.BytesIO()
        filled = np.tile(np.array(wave, np.float32), RATE_HZ)
        soundfile.write(file, filled, 44_100, format="WAV", subtype="FLOAT")
        assert "waveform" in (fault(file.getvalue()) or "")
        with pytest.raises(ValueError, match="waveform"):
            load_audio(file.getvalue(), AudioSettings(), draws=None)


def test_a_clip_too_short_to_resample_is_bad_in_both():
    file = io.BytesIO()
    soundfile.write(file, np.zeros(1), 192_000, format="WAV")
    assert "no audio samples after resampling" in (fault(file.getvalue()) or "")
