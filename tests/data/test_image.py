import io
import struct
import zlib

import numpy as np
import pytest
import torch
from multimodal import encoded, jpeg, picture
from PIL import Image
from torchvision.transforms import v2

from mmlight.data.decode.draw import Draws
from mmlight.data.decode.image import ImageSettings, decode, load_image, random_box, resize
from mmlight.errors import UserError

NOISE = np.random.default_rng(0).integers(0, 256, (30, 40), dtype=np.uint8)


def draws(*, seed: int = 0, epoch: int = 0, sample: int = 0) -> Draws:
    return Draws("image", seed=seed, epoch=epoch, sample=sample)


def _see_through() -> Image.Image:
    image = picture().convert("RGBA")
    image.putalpha(Image.fromarray(NOISE))
    return image


def _files() -> dict[str, bytes]:
    image = picture()
    palette = image.quantize(32)
    return {
        "jpeg": encoded(image, "JPEG", quality=90),
        "progressive": encoded(image, "JPEG", progressive=True),
        "444": encoded(image, "JPEG", subsampling=0),
        "grey jpeg": encoded(image.convert("L"), "JPEG"),
        "cmyk": encoded(image.convert("CMYK"), "JPEG"),
        "png": encoded(image, "PNG"),
        "grey png": encoded(image.convert("L"), "PNG"),
        "bilevel": encoded(image.convert("1"), "PNG"),
        "palette": encoded(palette, "PNG"),
        "palette with a transparent colour": encoded(palette, "PNG", transparency=3),
        "rgba": encoded(_see_through(), "PNG"),
        "grey with alpha": encoded(_see_through().convert("LA"), "PNG"),
        "webp": encoded(image, "WEBP", quality=90),
        "lossless webp": encoded(image, "WEBP", lossless=True),
        "webp with alpha": encoded(_see_through(), "WEBP"),
        "animated webp": encoded(image, "WEBP", save_all=True, append_images=[picture(seed=1)]),
        "gif": encoded(palette, "GIF"),
        "bmp": encoded(image, "BMP"),
        "tiff": encoded(image, "TIFF"),
    }


FILES = _files()


@pytest.mark.parametrize("name", FILES)
def test_decodes_as_pillow_does(name):
    ours = decode(FILES[name])
    pillow = np.array(Image.open(io.BytesIO(FILES[name])).convert("RGB"))
    assert ours.dtype == torch.uint8 and ours.shape == (3, 30, 40)
    difference = ours.permute(1, 2, 0).int() - torch.from_numpy(pillow).int()
    assert difference.abs().max() <= 1


@pytest.mark.parametrize("name", FILES)
def test_grey_is_close_to_pillow(name):
    ours = decode(FILES[name], channels=1)
    pillow = np.array(Image.open(io.BytesIO(FILES[name])).convert("L"))
    assert ours.dtype == torch.uint8 and ours.shape == (1, 30, 40)
    difference = (ours[0].int() - torch.from_numpy(pillow).int()).abs().float()
    assert difference.mean() < 1.0  # a JPEG's luma is not that of its rounded colours


def test_16_bit_images_keep_their_upper_byte():
    wide = np.random.default_rng(0).integers(0, 65536, (6, 5, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in wide)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    colour = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 6, 16, 2, 0, 0, 0))
    colour += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert np.array_equal(decode(colour).permute(1, 2, 0).numpy(), wide >> 8)
    for format in ("PNG", "TIFF"):
        grey = encoded(Image.fromarray(wide[..., 0]), format)
        assert np.array_equal(decode(grey)[1].numpy(), wide[..., 0] >> 8)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_image_raises(name):
    data = FILES[name]
    for part in (0.05, 0.5, 0.9):
        with pytest.raises(Exception):  # noqa: B017  decoders raise what they like
            decode(data[: int(len(data) * part)])


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff\xd8", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_image_raises(data):
    with pytest.raises(Exception):  # noqa: B017
        decode(data)


@pytest.mark.parametrize("name", ["jpeg", "png", "webp", "lossless webp", "webp with alpha", "gif"])
def test_too_many_pixels_are_refused_before_decoding(name):
    with pytest.raises(ValueError, match="40 x 30 pixels"):
        decode(FILES[name], max_pixels=1199)


def test_a_thin_line_is_not_scaled_up_to_gigabytes():
    line = encoded(Image.new("RGB", (20_000, 1)), "PNG")
    with pytest.raises(ValueError, match="max_pixels"):
        load_image(line, ImageSettings(size=224), draws=None)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(16, 16), (50, 61), (30, 40)])
def test_resizing_equals_pillow_within_one(channels, size):
    image = picture() if channels == 3 else picture().convert("L")
    pixels = np.array(image).reshape(30, 40, channels)
    ours = resize(torch.from_numpy(pixels).permute(2, 0, 1), height=size[0], width=size[1])
    pillow = np.array(image.resize(size[::-1], Image.Resampling.BICUBIC))
    difference = ours.permute(1, 2, 0).int() - torch.from_numpy(pillow).reshape(*size, -1).int()
    assert difference.abs().max() <= 1


@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (31, 47), (16, 16)])
def test_centre_crop_equals_torchvision(shape):
    image = picture(*shape)
    ours = load_image(encoded(image, "PNG"), ImageSettings(size=16), draws=None)
    bicubic = v2.InterpolationMode.BICUBIC
    theirs = v2.Compose([v2.Resize(16, interpolation=bicubic), v2.CenterCrop(16)])(image)
    difference = ours.permute(1, 2, 0).int() - torch.from_numpy(np.array(theirs)).int()
    assert ours.shape == (3, 16, 16)
    assert difference.abs().max() <= 1


def test_random_boxes_cover_the_asked_areas_and_shapes():
    boxes = [
        random_box(300, 400, scale=(0.2, 0.6), ratio=(3 / 4, 4 / 3), draws=draws(sample=n))
        for n in range(2000)
    ]
    top, left, height, width = np.array(boxes).T
    area = height * width / (300 * 400)
    aspect = width / height
    assert top.min() >= 0 and left.min() >= 0
    assert (top + height).max() <= 300 and (left + width).max() <= 400
    assert 0.195 < area.min() < 0.21 and 0.57 < area.max() < 0.605
    assert abs(area.mean() - 0.4) < 0.01
    assert abs(np.log(aspect).mean()) < 0.02
    assert 0.73 < aspect.min() < 0.77 and 1.29 < aspect.max() < 1.36
    # the free place is used evenly
    free = top[height < 300] / (300 - height[height < 300])
    assert abs(free.mean() - 0.5) < 0.03 and np.quantile(free, 0.9) > 0.85


def test_a_box_that_never_fits_is_the_middle():
    box = random_box(10, 1000, scale=(1, 1), ratio=(0.75, 4 / 3), draws=draws())
    assert box == (0, (1000 - 13) // 2, 10, 13)


def test_crops_depend_on_seed_epoch_and_sample_alone():
    data, settings = jpeg(), ImageSettings(size=16, scale=(0.1, 0.9), flip_probability=0.5)

    def crop(**which: int) -> torch.Tensor:
        return load_image(data, settings, draws=draws(**which))

    assert torch.equal(crop(sample=5), crop(sample=5))
    for other in ({"seed": 1, "sample": 5}, {"epoch": 1, "sample": 5}, {"sample": 6}):
        assert not torch.equal(crop(sample=5), crop(**other))


def test_flips_come_as_often_as_asked():
    data = encoded(picture(16, 16), "PNG")
    settings = ImageSettings(size=16, train_crop="squash", flip_probability=0.25)
    plain = decode(data)
    flipped = [
        torch.equal(load_image(data, settings, draws=draws(sample=n)), plain.flip(-1))
        for n in range(400)
    ]
    assert abs(np.mean(flipped) - 0.25) < 0.07
    assert torch.equal(load_image(data, settings, draws=None), plain)


@pytest.mark.parametrize(
    "settings",
    [
        {"size": 0},
        {"channels": 4},
        {"scale": (0.5, 1.5)},
        {"ratio": (2.0, 1.0)},
        {"flip_probability": 2.0},
        {"train_crop": "center", "scale": (0.5, 1.0)},
    ],
)
def test_wrong_settings_are_refused(settings):
    with pytest.raises(UserError, match=r"image\."):
        ImageSettings(**settings)


def test_null_takes_back_what_another_file_sets():
    settings = ImageSettings(train_crop="squash", scale=None, ratio=None)
    assert settings.scale == (0.9, 1.0) and settings.ratio == (3 / 4, 4 / 3)
