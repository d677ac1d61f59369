"""What an image processor of transformers does to images: normalisation, size, crop."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

from mmlight.encoders.hf_model import SAID
from mmlight.errors import UserError

# Of Pillow: nearest, Lanczos, bilinear, bicubic. Lanczos, which torchvision lacks, is bicubic in
# transformers, too.
_FILTERS = {0: "nearest", 1: "bicubic", 2: "bilinear", 3: "bicubic"}


@dataclass(frozen=True)
class HfImageInputs:
    """How the images of pretraining became pixels.

    Attributes:
        mean: of each channel, of pixels between 0 and 1.
        std: likewise.
        preparation: see `mmlight.encoders.encoder.Encoder.preparation`.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    preparation: dict[str, Any]


def read_inputs(checkpoint: str, config: Any, *, key: str) -> HfImageInputs:
    """Return what a checkpoint's image processor does.

    Args:
        checkpoint: folder or hub id whose ``preprocessor_config.json`` (or
            ``processor_config.json``) counts; without one, what transformers has for the model.
        config: the whole model's.
        key: the setting that names the checkpoint, for messages.

    Raises:
        UserError: no image processor, or one whose images have no side of a fixed length.
    """
    folder = Path(checkpoint).expanduser()
    there = not folder.is_dir() or any((folder / name).is_file() for name in SAID)
    try:
        if there:
            processor = AutoImageProcessor.from_pretrained(checkpoint, trust_remote_code=False)
        else:
            processor = _default_class(config)()
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        said = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UserError(f"{key}: no image processor at '{checkpoint}': {said}") from error
    settings = processor.to_dict()
    mean, std = _normalisation(settings)
    return HfImageInputs(mean, std, _geometry(settings, key=key))


def _default_class(config: Any) -> Any:
    found = IMAGE_PROCESSOR_MAPPING[type(config)]
    return found["torchvision"] if isinstance(found, dict) else found[-1]


def _normalisation(settings: dict[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of pixels between 0 and 1, whatever the processor scales by."""
    mean, std = settings.get("image_mean"), settings.get("image_std")
    if not settings.get("do_normalize") or mean is None or std is None:
        mean, std = [0.0] * 3, [1.0] * 3
    factor = 255 * (settings["rescale_factor"] if settings.get("do_rescale") else 1.0)
    return tuple(float(m) / factor for m in mean), tuple(float(s) / factor for s in std)


def _geometry(settings: dict[str, Any], *, key: str) -> dict[str, Any]:
    size, crop = settings.get("size") or {}, settings.get("crop_size") or {}
    height, width, shortest = (size.get(n) for n in ("height", "width", "shortest_edge"))
    how = {"interpolation": _FILTERS.get(int(settings.get("resample") or 0), "bilinear")}
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
