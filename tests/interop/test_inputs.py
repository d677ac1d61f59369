import io

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmlight.data.decode.audio import AudioSettings, load_audio
from mmlight.data.decode.image import ImageSettings, decode, load_image
from mmlight.errors import UserError
from mmlight.interop.inputs import decoded, image_bytes, name_of, sound_bytes

RATE_HZ = 8000
WAVE = (0.5 * np.sin(np.arange(2000) * 0.3)).astype(np.float32)
SETTINGS = AudioSettings(sample_rate_hz=RATE_HZ)


def heard(samples):
    return load_audio(sound_bytes((samples, RATE_HZ), name="a"), SETTINGS, draws=None)


@pytest.mark.parametrize(
    "samples",
    [
        WAVE.astype(np.float64),
        WAVE.astype(np.float16),
        (WAVE * 127 + 128).round().astype(np.uint8),
        (WAVE * 127).round().astype(np.int8),
        (WAVE * 32767).round().astype(np.int16),
        (WAVE * 32767).round().astype(">i2"),
        (WAVE * 2147483647.0).round().astype(np.int32),
        (WAVE * 32767 + 32768).round().astype(np.uint16),
        np.stack([WAVE, WAVE], axis=1),
        (np.stack([WAVE, WAVE], axis=1) * 32767).astype(np.int16),
    ],
    ids=lambda samples: f"{samples.dtype}-{samples.ndim}",
)
def test_samples_of_every_type_are_the_same_sound(samples):
    size = samples.dtype.itemsize
    tolerance = 1e-2 if size == 1 else 1e-3 if samples.dtype == np.float16 else 1e-4
    np.testing.assert_allclose(heard(samples), WAVE, atol=tolerance)


def test_floats_far_beyond_full_scale_are_told():
    with pytest.warns(UserWarning, match=r"a: the samples reach 16383\.\d and are clipped to 1"):
        heard(WAVE * 32767)


def test_a_file_of_floats_in_the_range_of_16_bits_is_bad():
    file = io.BytesIO()
    soundfile.write(file, WAVE * 32767, RATE_HZ, format="WAV", subtype="FLOAT")
    with pytest.raises(ValueError, match=r"reaches 1\.64e\+04 \(full scale is 1\)"):
        load_audio(file.getvalue(), SETTINGS, draws=None)


@pytest.mark.parametrize(
    ("sound", "said"),
    [
        ((np.zeros((2, 3, 4)), RATE_HZ), r"\(T,\) or \(T, channels\)"),
        ((np.zeros(0), RATE_HZ), r"not \(0,\)"),
        ((np.array(["a"]), RATE_HZ), "floats or whole numbers"),
        ((WAVE, 0), "sampling rate"),
        ((WAVE, 8000.5), "sampling rate"),
        (WAVE, "a pair of samples and their rate"),
        (3, "a pair of samples and their rate"),
    ],
)
def test_what_is_no_sound_is_one_line(sound, said):
    with pytest.raises(UserError, match=rf"^x: .*{said}"):
        sound_bytes(sound, name="x")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_pictures_of_every_mode_are_taken(mode):
    image = Image.new("RGB", (8, 6), (200, 30, 40)).convert(mode)
    pixels = decode(image_bytes(image, name="a")).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(pixels.astype(int), np.asarray(image.convert("RGB")), atol=2)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((2, 2, 3)), "must be uint8, not float64"),
        (np.zeros((2, 2, 7), np.uint8), r"\(H, W, 3\) or \(H, W\), not \(2, 2, 7\)"),
        (None, "not a NoneType"),
        ("none/such.jpg", "No such file"),
    ],
)
def test_what_is_no_image_is_one_line(image, said):
    with pytest.raises(UserError, match=said):
        image_bytes(image, name="x")


def test_a_file_that_cannot_be_decoded_is_named(tmp_path):
    path = tmp_path / "broken.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n")

    def read(data):
        return load_image(data, ImageSettings(), draws=None)

    with pytest.raises(UserError, match=r"broken\.png: "):
        decoded(read, path.read_bytes(), name=name_of(path, 3))
    with pytest.raises(UserError, match="input 3 \\(counted from 0\\): "):
        decoded(read, b"", name=name_of(b"", 3))
