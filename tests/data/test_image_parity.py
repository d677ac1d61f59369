"""Images of evaluation, pixel for pixel those of open_clip and of transformers.

Largest differences, of 255: transformers 0; open_clip, which scales with Pillow, 2 for a centre
crop and 5 where it squashes one side to a quarter (torch's filter has fewer bits). open_clip scales
a palette's image without a filter, and one with transparency premultiplied by it: what is compared
here are these images as RGB. It does not turn an image by its EXIF; here all are turned.
"""

import io
import os
import sys

import numpy as np
import pytest
import torch
from multimodal import encoded
from PIL import Image, ImageOps
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize
from transformers import CLIPImageProcessor, SiglipImageProcessor

from mmlight.data.decode.image import ImageSettings, load_image
from mmlight.errors import UserError
from mmlight.published.hf.image_processor import geometry, processor_settings

SIZES = [(63, 63), (64, 67), (63, 90), (91, 63), (97, 61), (120, 223), (37, 200), (1, 50)]
SIDES = (63, 64)


def noisy(width, height):
    draw = np.random.default_rng(width * 1000 + height)
    coarse = draw.integers(0, 256, (max(2, height // 9), max(2, width // 9), 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noise = draw.integers(-40, 41, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(smooth) + noise, 0, 255).astype(np.uint8))


def files():
    """Yield images as they come in files: plain ones of all sizes, others of some."""
    for width, height in SIZES:
        yield encoded(noisy(width, height), "JPEG", quality=92)
    turned = Image.Exif()
    turned[0x0112] = 6
    for width, height in ((97, 61), (63, 90)):
        image = noisy(width, height)
        veiled = image.convert("RGBA")
        veiled.putalpha(noisy(width, height).convert("L"))
        yield encoded(image, "PNG")
        yield encoded(image, "WEBP", lossless=True)
        yield encoded(image, "JPEG", exif=turned)
        yield encoded(image.convert("L"), "JPEG")
        yield encoded(image.convert("CMYK"), "JPEG")
        yield encoded(image.quantize(64), "PNG")
        yield encoded(veiled, "PNG")
        yield encoded(veiled.convert("LA"), "PNG")


FILES = list(files())


def plain(data):
    return ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")


def largest_difference(theirs, settings):
    apart = 0
    for data in FILES:
        ours = load_image(data, ImageSettings(train_crop="center", **settings), draws=None)
        expected = torch.as_tensor(np.array(theirs(plain(data)))).to(torch.int64)
        assert ours.shape == expected.shape
        apart = max(apart, int((ours.to(torch.int64) - expected).abs().max()))
    return apart


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_pixels_are_those_of_the_image_processors_of_transformers(kind, side):
    plain_steps = {"do_normalize": False, "do_rescale": False}
    if kind == "clip":
        square = {"height": side, "width": side}
        made = CLIPImageProcessor(size={"shortest_edge": side}, crop_size=square, **plain_steps)
    else:
        made = SiglipImageProcessor(size={"height": side, "width": side}, **plain_steps)
    settings = geometry(processor_settings(made.to_dict(), kind=kind), key="model")
    assert settings["crop_offset"] == "down"
    assert largest_difference(lambda im: made(im).pixel_values[0], settings) == 0
    if kind == "clip":
        # Half an odd number of pixels is rounded in another way elsewhere.
        other = settings | {"crop_offset": "even"}
        assert largest_difference(lambda im: made(im).pixel_values[0], other) > 20


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(("crop", "bound"), [("center", 2), ("squash", 5)])
def test_pixels_are_those_of_pillow_and_torchvision_as_open_clip_uses_them(crop, bound, side):
    scaled = side if crop == "center" else (side, side)
    theirs = Compose([Resize(scaled, InterpolationMode.BICUBIC), CenterCrop(side)])
    settings = {"size": side, "eval_crop": crop}
    difference = largest_difference(lambda im: np.asarray(theirs(im)).transpose(2, 0, 1), settings)
    assert 0 < difference <= bound


@pytest.mark.slow
@pytest.mark.parametrize("side", [*SIDES, 224])
@pytest.mark.parametrize(
    ("crop", "mode", "bound"), [("center", "shortest", 2), ("squash", "squash", 5)]
)
def test_pixels_are_those_of_open_clips_own_transform(crop, mode, bound, side, monkeypatch):
    folder = os.environ.get("OPEN_CLIP", "")
    if not os.path.isdir(os.path.join(folder, "open_clip")):
        pytest.skip("OPEN_CLIP names no folder with open_clip (make slow does)")
    monkeypatch.setattr(sys, "path", [*sys.path, folder])
    from open_clip.transform import image_transform

    made = image_transform(side, is_train=False, resize_mode=mode, mean=(0.0,) * 3, std=(1.0,) * 3)
    settings = {"size": side, "eval_crop": crop}
    assert largest_difference(lambda im: (made(im) * 255).round(), settings) <= bound


def test_an_unknown_rounding_is_refused():
    with pytest.raises(UserError, match="crop_offset must be even or down, not 'up'"):
        ImageSettings(crop_offset="up")
