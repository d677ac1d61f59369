"""What an image processor of transformers does to images, as settings of ours, and back."""

import math
from collections.abc import Mapping
from typing import Any

from mmlight.errors import UserError

# Of Pillow: nearest, Lanczos, bilinear, bicubic. Lanczos, which torchvision lacks, is bicubic in
# transformers, too.
_FILTERS = {0: "nearest", 1: "bicubic", 2: "bilinear", 3: "bicubic"}
_RESAMPLE = {"nearest": 0, "bilinear": 2, "bicubic": 3}
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_STEPS = {"do_resize": True, "do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255}
_HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
# What transformers' class for each kind of model does where its file says nothing.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "clip": {
        **_STEPS,
        "size": {"shortest_edge": 224},
        "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224},
        "resample": 3,
        "image_mean": list(_CLIP_MEAN),
        "image_std": list(_CLIP_STD),
    },
    "siglip": {**_STEPS, **_HALF, "size": {"height": 224, "width": 224}, "resample": 3},
    "siglip2": {**_STEPS, **_HALF, "resample": 2, "patch_size": 16, "max_num_patches": 256},
}
_CLASSES = {
    "clip": "CLIPImageProcessor",
    "siglip": "SiglipImageProcessor",
    "siglip2": "Siglip2ImageProcessor",
}


def processor_settings(said: Mapping[str, Any], *, kind: str) -> dict[str, Any]:
    """Return all settings of a model's image processor.

    Args:
        said: what its file says.
        kind: the model: ``clip``, ``siglip`` or ``siglip2``.
    """
    settings = _DEFAULTS[kind] | {name: value for name, value in said.items() if value is not None}
    for name in ("size", "crop_size"):  # one number, in files of older releases
        side = settings.get(name)
        if isinstance(side, int):
            square = {"height": side, "width": side}
            by_shorter = name == "size" and kind == "clip"
            settings[name] = {"shortest_edge": side} if by_shorter else square
    return settings


def normalisation(settings: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of pixels between 0 and 1, whatever the processor scales by."""
    mean, std = settings.get("image_mean"), settings.get("image_std")
    if not settings.get("do_normalize") or mean is None or std is None:
        mean, std = [0.0] * 3, [1.0] * 3
    factor = 255 * (settings["rescale_factor"] if settings.get("do_rescale") else 1.0)
    return tuple(float(m) / factor for m in mean), tuple(float(s) / factor for s in std)


def geometry(settings: Mapping[str, Any], *, key: str) -> dict[str, Any]:
    """Return how a processor makes images of one size, as settings of `data.image`.

    Args:
        settings: all settings of the processor.
        key: the setting that names the model, for messages.

    Raises:
        UserError: its images are no squares of one size, or are padded.
    """
    how: dict[str, Any] = {
        "interpolation": _FILTERS.get(int(settings.get("resample") or 0), "bilinear"),
        "crop_offset": "down",  # as its centre crops round
    }
    if patches := settings.get("max_num_patches"):
        # NaFlex keeps the proportions of each image; here all become the square of as many patches.
        side = math.isqrt(int(patches)) * int(settings["patch_size"])
        return how | {"size": side, "eval_crop": "squash", "crop_pct": 1.0}
    size, crop = settings.get("size") or {}, settings.get("crop_size") or {}
    height, width, shortest = (size.get(n) for n in ("height", "width", "shortest_edge"))
    wanted = crop.get("height") if settings.get("do_center_crop") else None
    scaled = shortest or height
    if not settings.get("do_resize"):
        return {"size": wanted} if wanted else {}
    sides = [side for side in (height, width, crop.get("height"), crop.get("width")) if side]
    if scaled is None or (height != width) or (wanted and crop.get("width") != wanted):
        raise UserError(
            f"{key}: its image processor makes images of {sides or size}, which are not squares of "
            "one size"
        )
    side = int(wanted or scaled)
    kind = "center" if shortest else "squash"
    if side > scaled:
        raise UserError(f"{key}: its image processor pads images of {scaled} to {side}")
    part = settings.get("crop_pct")
    if part and shortest and not wanted:  # ConvNeXt's: a crop below 384 pixels, all above
        kind, scaled = ("squash", side) if side >= 384 else ("center", int(side / part))
    return how | {"size": side, "eval_crop": kind, "crop_pct": _part(side, int(scaled))}


def _part(side: int, scaled: int) -> float:
    """Return the share that gives `scaled` again when `side` is divided by it and rounded down."""
    part = side / scaled
    while math.floor(side / part) < scaled:
        part = math.nextafter(part, 0)
    return part


def write_processor(
    image: Mapping[str, Any], *, kind: str, mean: list[float], std: list[float], patch: int
) -> dict[str, Any]:
    """Return the image processor that prepares images as `data.image` does.

    Args:
        image: its settings, with nothing left out.
        kind: the model: ``clip``, ``siglip`` or ``siglip2``.
        mean: of each channel, of pixels between 0 and 1.
        std: likewise.
        patch: side of the model's patches, in pixels.

    Raises:
        UserError: no image processor of transformers does so.
    """
    side, crop = int(image["size"]), image["eval_crop"]
    scaled = math.floor(side / (image.get("crop_pct") or 1.0))
    if crop not in ("center", "squash"):
        raise UserError(f"transformers has no image processor for data.image.eval_crop: {crop}")
    settings = _STEPS | {
        "image_processor_type": _CLASSES[kind],
        "do_convert_rgb": True,
        "resample": _RESAMPLE[image.get("interpolation") or "bicubic"],
        "image_mean": mean,
        "image_std": std,
    }
    if kind == "siglip2":
        return settings | {"patch_size": patch, "max_num_patches": (side // patch) ** 2}
    squash = {"height": scaled, "width": scaled}
    settings["size"] = squash if crop == "squash" else {"shortest_edge": scaled}
    settings["do_center_crop"] = crop == "center" or scaled != side
    return settings | {"crop_size": {"height": side, "width": side}}
