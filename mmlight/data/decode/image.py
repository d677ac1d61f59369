"""Decodes an image member into uint8 pixels of the model's size.

Shapes: C channels, H and W pixels.
"""

import io
import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.io import ImageReadMode, decode_image

from mmlight.data.decode.boxes import BoxSet
from mmlight.data.decode.corruption_kinds import image_noise
from mmlight.data.decode.draw import Draws
from mmlight.data.decode.image_fit import Fitted, fit, jitter_color, random_fit
from mmlight.data.decode.image_header import png_fault, read_head, read_orientation, upright
from mmlight.data.decode.probe import PILLOW_FORMATS
from mmlight.errors import UserError

Crop = Literal["random_resized", "center", "squash", "fit", "random_fit"]
EvalCrop = Literal["center", "squash", "fit"]
Interpolation = Literal["bicubic", "bilinear", "nearest"]
CropOffset = Literal["even", "down"]


@dataclass
class ImageSettings:
    """How images become pixels; what is left out follows the image tower.

    A tower with pretrained weights, or of an earlier run, says how the images were prepared that it
    was trained on; otherwise the defaults are open_clip's. Pixels stay uint8; encoders normalise
    them on the device. Resizing is antialiased and equals Pillow's to within 2 of 255.

    Args:
        size: height and width in pixels; by default the image tower's, else 224.
        channels: 3 for RGB, 1 for grey; by default the image tower's, else 3.
        train_crop: random_resized cuts a random part; center scales the shorter side and cuts the
            middle; squash scales both sides; fit scales the longer side and pads right and below;
            random_fit does so at a random zoom (for boxes).
        eval_crop: the same without the random ones; by default the image tower's, else center
            (fit where train_crop fits).
        interpolation: how images are scaled; by default the image tower's, else bicubic.
        crop_pct: center and squash scale to size / crop_pct and cut the middle out of that (timm's
            name); by default the image tower's, else 1.
        crop_offset: where the middle begins if an odd number of pixels is cut off: half of it,
            rounded to the nearest even number (even: torchvision and open_clip) or down (down:
            transformers); by default the image tower's, else even.
        scale: smallest and largest area that random_resized cuts, as a part of the image.
        ratio: smallest and largest width / height that random_resized cuts.
        zoom: smallest and largest zoom of random_fit: above 1 it cuts a window out of the image,
            below 1 it makes the image smaller.
        pad_to: fit and random_fit pad to a square of `size`, or only to what the largest image of
            the batch needs (cheaper, for encoders that take any size); always to whole multiples
            of 32 pixels.
        flip_probability: how often training mirrors an image left to right.
        vertical_flip_probability: how often random_fit mirrors an image top to bottom.
        color_jitter: training changes brightness, contrast and saturation by random factors
            between 1 - color_jitter and 1 + color_jitter; 0 leaves them.
        soften: training makes images smaller by random factors from 1 to this and as large again,
            so that a model does without the finest detail; 1 leaves them.
        noise: training adds Gaussian noise of a random standard deviation from 0 to this, where 1
            is the range of pixels; 0 adds none.
        frames: encode so many of a sample's images at most, the frames of a video, whose features
            the tower pools; None takes one. Of more, they are evenly spaced over the sample:
            evaluation takes the middle of each of so many parts, training any of each. Training
            crops and mirrors all frames of a sample alike.
        max_pixels: images with more pixels count as bad samples (they can be made to fill the
            memory).
    """

    size: int | None = None
    channels: Literal[1, 3] | None = None
    train_crop: Crop = "random_resized"
    eval_crop: EvalCrop | None = None
    interpolation: Interpolation | None = None
    crop_pct: float | None = None
    crop_offset: CropOffset | None = None
    scale: tuple[float, float] = (0.9, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    zoom: tuple[float, float] = (1.0, 1.0)
    pad_to: Literal["square", "batch"] = "square"
    flip_probability: float = 0.0
    vertical_flip_probability: float = 0.0
    color_jitter: float = 0.0
    soften: float = 1.0
    noise: float = 0.0
    frames: int | None = None
    max_pixels: int = 100_000_000

    def __post_init__(self) -> None:
        """Refuse values out of range and settings without effect."""
        for name in ("scale", "ratio", "zoom"):
            given = getattr(self, name)
            if given is None:  # null takes back what an earlier file sets
                given = type(self).__dict__[name]
            setattr(self, name, (float(given[0]), float(given[1])))
        if self.side < 1:
            raise UserError(f"image.size must be 1 or more, not {self.size}")
        if self.num_channels not in (1, 3):
            raise UserError(f"image.channels must be 1 or 3, not {self.channels}")
        if self.crop_pct is not None and not 0 < self.crop_pct <= 1:
            raise UserError(f"image.crop_pct must be above 0 and at most 1, not {self.crop_pct}")
        if self.crop_offset not in (None, *get_args(CropOffset)):
            raise UserError(f"image.crop_offset must be even or down, not '{self.crop_offset}'")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise UserError(f"image.scale must be two parts of the area, not {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise UserError(f"image.ratio must be two numbers above 0, not {self.ratio}")
        if not 0 < self.zoom[0] <= self.zoom[1]:
            raise UserError(f"image.zoom must be two numbers above 0, not {self.zoom}")
        for name in ("flip_probability", "vertical_flip_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"image.{name} must be 0 to 1, not {getattr(self, name)}")
        if not 0 <= self.color_jitter < 1:
            raise UserError(f"image.color_jitter must be 0 to below 1, not {self.color_jitter}")
        if self.soften < 1:
            raise UserError(f"image.soften must be 1 or more, not {self.soften}")
        if self.noise < 0:
            raise UserError(f"image.noise must be 0 or more, not {self.noise}")
        if self.frames is not None and self.frames < 1:
            raise UserError(f"image.frames must be 1 or more, not {self.frames}")
        if self.frames is not None and self.fits:
            raise UserError("image.frames: frames are all of one size; use another crop than fit")
        if (self.train_crop in ("fit", "random_fit")) != self.fits:
            raise UserError(
                f"image.train_crop: {self.train_crop} and image.eval_crop: {self.crop} give "
                "images of other shapes; use fit or random_fit with eval_crop: fit"
            )
        effective = {
            "random_resized": ("scale", "ratio"),
            "random_fit": ("zoom", "vertical_flip_probability"),
        }
        for crop, names in effective.items():
            for name in names:
                if self.train_crop != crop and getattr(self, name) != type(self).__dict__[name]:
                    raise UserError(
                        f"image.{name} has no effect with image.train_crop: {self.train_crop}; "
                        "leave it out, or set it to null where another file sets it"
                    )
        if self.pad_to != "square" and not self.fits:
            raise UserError(f"image.pad_to has no effect with image.eval_crop: {self.crop}")

    @property
    def fits(self) -> bool:
        """Whether images keep their proportions and are padded."""
        return self.crop == "fit"

    @property
    def side(self) -> int:
        """Height and width in pixels."""
        return 224 if self.size is None else self.size

    @property
    def num_channels(self) -> Literal[1, 3]:
        """Channels of the pixels."""
        return self.channels or 3

    @property
    def crop(self) -> EvalCrop:
        """What evaluation cuts."""
        if self.eval_crop is not None:
            return self.eval_crop
        return "fit" if self.train_crop in ("fit", "random_fit") else "center"

    @property
    def scaled_side(self) -> int:
        """What images are scaled to before the middle of `side` is cut out."""
        return math.floor(self.side / (self.crop_pct or 1.0))

    def complete(self) -> "ImageSettings":
        """Return the same settings with nothing left out."""
        return replace(
            self,
            size=self.side,
            channels=self.num_channels,
            eval_crop=self.crop,
            interpolation=self.interpolation or "bicubic",
            crop_pct=self.crop_pct or 1.0,
            crop_offset=self.crop_offset or "even",
        )


_DEFAULT = ImageSettings()


def load_image(data: bytes, settings: ImageSettings, *, draws: Draws | None) -> Tensor:
    """Decode, crop and scale one image, as training does with `draws`, as evaluation without.

    Returns:
        (C, H, W) uint8 pixels; not yet padded where images are fitted.

    Raises:
        Exception: whatever the decoder says about a broken image.
    """
    pixels_CHW = decode(data, channels=settings.num_channels, max_pixels=settings.max_pixels)
    if settings.fits:
        return fit_image(pixels_CHW, None, settings, draws=draws).pixels_CHW
    crop = settings.crop if draws is None else settings.train_crop
    pixels_CHW = _crop(pixels_CHW, settings, crop=crop, draws=draws)
    if draws is not None and draws.uniform() < settings.flip_probability:
        pixels_CHW = pixels_CHW.flip(-1)
    return _jitter(pixels_CHW, settings, draws=draws)


def fit_image(
    pixels_CHW: Tensor, boxes: BoxSet | None, settings: ImageSettings, *, draws: Draws | None
) -> Fitted:
    """Scale a decoded image with its boxes to fit, as `settings` say; not yet padded."""
    # A line of one pixel's height fits as a line: nothing here grows beyond the square.
    if draws is None or settings.train_crop == "fit":
        fitted = fit(
            pixels_CHW,
            boxes,
            size=settings.side,
            interpolation=settings.interpolation,
            flip=draws is not None and draws.uniform() < settings.flip_probability,
        )
    else:
        fitted = random_fit(
            pixels_CHW,
            boxes,
            size=settings.side,
            interpolation=settings.interpolation,
            zoom=settings.zoom,
            flip_probability=settings.flip_probability,
            vertical_flip_probability=settings.vertical_flip_probability,
            draws=draws,
        )
    return replace(fitted, pixels_CHW=_jitter(fitted.pixels_CHW, settings, draws=draws))


def _jitter(pixels_CHW: Tensor, settings: ImageSettings, *, draws: Draws | None) -> Tensor:
    if draws is None:
        return pixels_CHW
    if settings.color_jitter:
        pixels_CHW = jitter_color(pixels_CHW, settings.color_jitter, draws=draws)
    if settings.soften > 1:
        height, width = pixels_CHW.shape[1:]
        factor = draws.uniform(1.0, settings.soften)
        small_height, small_width = (max(1, round(side / factor)) for side in (height, width))
        pixels_CHW = resize(pixels_CHW, height=small_height, width=small_width)
        pixels_CHW = resize(pixels_CHW, height=height, width=width)
    if settings.noise:
        amount = draws.uniform(0.0, settings.noise)
        pixels_CHW = image_noise(pixels_CHW, amount=amount, draws=draws)
    return pixels_CHW


def _crop(
    pixels_CHW: Tensor, settings: ImageSettings, *, crop: Crop, draws: Draws | None
) -> Tensor:
    size, how = settings.side, settings.interpolation
    height, width = pixels_CHW.shape[1:]
    if crop == "random_resized":
        assert draws is not None
        top, left, box_height, box_width = random_box(
            height, width, scale=settings.scale, ratio=settings.ratio, draws=draws
        )
        box = pixels_CHW[:, top : top + box_height, left : left + box_width]
        return resize(box, height=size, width=size, interpolation=how)
    height, width = _scaled(height, width, settings, crop=crop)
    resized = resize(pixels_CHW, height=height, width=width, interpolation=how)
    offset = math.floor if settings.crop_offset == "down" else round
    top, left = (offset((side - size) / 2) for side in resized.shape[1:])
    return resized[:, top : top + size, left : left + size]


def _scaled(height: int, width: int, settings: ImageSettings, *, crop: Crop) -> tuple[int, int]:
    """Return height and width of an image whose middle is cut out."""
    side = settings.scaled_side
    if crop == "squash":
        return side, side
    # torchvision's Resize cuts the longer side's fraction off, then CenterCrop rounds
    if width <= height:
        height, width = int(side * height / width), side
    else:
        height, width = side, int(side * width / height)
    # a line of one pixel's height would be scaled up to gigabytes
    _check_pixels(width, height, settings.max_pixels)
    return height, width


def check_image(data: bytes) -> None:
    """Decode an image as `load_image` does with the default settings.

    Raises:
        Exception: what `load_image` would raise.
    """
    settings = _DEFAULT
    pixels_CHW = decode(data, channels=settings.num_channels, max_pixels=settings.max_pixels)
    _scaled(pixels_CHW.shape[1], pixels_CHW.shape[2], settings, crop=settings.crop)


def random_box(
    height: int, width: int, *, scale: tuple[float, float], ratio: tuple[float, float], draws: Draws
) -> tuple[int, int, int, int]:
    """Return top, left, height, width of a random box as torchvision's RandomResizedCrop does."""
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        area = height * width * draws.uniform(*scale)
        aspect = math.exp(draws.uniform(low, high))
        box_width = round(math.sqrt(area * aspect))
        box_height = round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = draws.integer(height - box_height + 1)
            left = draws.integer(width - box_width + 1)
            return top, left, box_height, box_width
    whole = width / height
    box_width, box_height = width, height
    if whole < ratio[0]:
        box_height = max(1, round(width / ratio[0]))
    elif whole > ratio[1]:
        box_width = max(1, round(height * ratio[1]))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def resize(
    pixels_CHW: Tensor, *, height: int, width: int, interpolation: Interpolation | None = None
) -> Tensor:
    """Scale uint8 pixels with an antialiased filter; nearest has none."""
    if pixels_CHW.shape[1:] == (height, width):
        return pixels_CHW
    if interpolation == "nearest":  # as Pillow; torch rounds in float32 and misses some by one
        rows = torch.from_numpy(_middles(pixels_CHW.shape[1], height))
        return pixels_CHW[:, rows][:, :, torch.from_numpy(_middles(pixels_CHW.shape[2], width))]
    # Interleaved (HWC) memory in one piece: 0.48 ms per image, against 0.61 as a strided view and
    # 1.28 as planes. A batch stride of the whole image makes torch keep that layout for B = 1.
    pixels_HWC = pixels_CHW.permute(1, 2, 0).contiguous()
    old_height, old_width, channels = pixels_HWC.shape
    pixels_BCHW = pixels_HWC.as_strided(
        (1, channels, old_height, old_width),
        (pixels_HWC.numel(), 1, old_width * channels, channels),
    )
    return interpolate(
        pixels_BCHW,
        size=(height, width),
        mode=interpolation or "bicubic",
        align_corners=False,
        antialias=True,
    )[0]


def _middles(old: int, new: int) -> npt.NDArray[np.int64]:
    """Return which of `old` pixels lies under the middle of each of `new` ones."""
    steps = np.full(new, old / new)
    steps[0] /= 2
    # Added up one by one, as Pillow does: a product is another pixel where two are equally near.
    return np.minimum(np.cumsum(steps).astype(np.int64), old - 1)


def decode(data: bytes, *, channels: int = 3, max_pixels: int = 100_000_000) -> Tensor:
    """Decode a JPEG, PNG, WebP, BMP, GIF, TIFF or PPM image.

    JPEG, PNG and WebP go through torchvision (nearly three times as fast as Pillow), others
    through Pillow. Transparency is dropped, as Pillow's ``convert("RGB")`` does; 16-bit images
    keep their upper 8 bits. Images are turned upright (see `mmlight.data.decode.image_header`).

    Returns:
        (C, H, W) uint8 pixels.

    Raises:
        ValueError: more than `max_pixels` pixels.
        Exception: whatever the decoder says about a broken image.
    """
    # Decoded and resized so, 1,280 images of 256 to 512 px per CPU-second; 438 by Pillow alone,
    # from which it differs by 1 of 255 at most.
    head = read_head(data)
    if head is None or (head.format == "webp" and channels == 1):  # torchvision's WebP has no grey
        return _decode_with_pillow(data, channels=channels, max_pixels=max_pixels)
    _check_pixels(head.width, head.height, max_pixels)
    mode = ImageReadMode.RGB if channels == 3 else ImageReadMode.GRAY
    # a copy: frombuffer warns about (and must not be given) read-only memory
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    try:
        pixels_CHW = decode_image(encoded, mode=mode)
    except RuntimeError as error:  # of a PNG it only says "Internal error"
        raise ValueError(png_fault(data) or str(error)) from error
    if pixels_CHW.dtype == torch.uint16:
        pixels_CHW = torch.from_numpy((pixels_CHW.numpy() >> 8).astype(np.uint8))
    if pixels_CHW.shape[0] != channels:
        return _decode_with_pillow(data, channels=channels, max_pixels=max_pixels)
    return upright(pixels_CHW, read_orientation(data))


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ValueError(f"{width} x {height} pixels are more than image.max_pixels={max_pixels}")


def _decode_with_pillow(data: bytes, *, channels: int, max_pixels: int) -> Tensor:
    with Image.open(io.BytesIO(data), formats=PILLOW_FORMATS) as image:
        _check_pixels(*image.size, max_pixels)
        image.load()
        plain: Image.Image = image
        if image.mode.startswith("I;16"):  # convert() clips these instead of scaling them
            plain = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        elif image.mode in ("I", "F"):
            raise ValueError(f"pixels of mode {image.mode} have no known range")
        converted = np.array(plain.convert("RGB" if channels == 3 else "L"))
        is_turned = image.format == "TIFF"  # by Pillow itself, while it loads
    pixels_HWC = torch.from_numpy(converted.reshape(*converted.shape[:2], channels))
    pixels_CHW = pixels_HWC.permute(2, 0, 1)
    return pixels_CHW if is_turned else upright(pixels_CHW, read_orientation(data))
