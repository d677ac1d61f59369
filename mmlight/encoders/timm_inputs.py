"""What a timm model's weights were trained on: normalisation, size, interpolation and crop."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmlight.encoders.pixels import PretrainedInputs
from mmlight.encoders.timm_import import resolve_data_config
from mmlight.errors import UserError
from mmlight.text_file import MIB, read_text_file

_INTERPOLATIONS = ("bicubic", "bilinear", "nearest")


def timm_inputs(model: Any, *, weights: str | None, in_chans: int) -> PretrainedInputs:
    """Return what a model with pretrained weights expects.

    Args:
        model: a timm model.
        weights: a local file of weights; a ``config.json`` beside it, as timm and the hub write it,
            counts more than what timm has for the architecture.
        in_chans: channels that the model takes; others than three are mixed of these.

    Raises:
        UserError: a ``config.json`` that cannot be used.
    """
    own = dict(getattr(model, "pretrained_cfg", None) or {})
    beside = _config_beside(weights) if weights is not None else None
    config = resolve_data_config({}, pretrained_cfg=own | (beside or {}))
    interpolation = str(config["interpolation"])
    preparation = {
        "size": int(config["input_size"][-1]),
        # Other filters, and timm's "random", are not those of an evaluation.
        "interpolation": interpolation if interpolation in _INTERPOLATIONS else "bicubic",
        "crop_pct": float(config["crop_pct"]),
        "eval_crop": "squash" if config["crop_mode"] == "squash" else "center",
    }
    return PretrainedInputs(
        mean=_for_channels(config["mean"], in_chans),
        std=_for_channels(config["std"], in_chans),
        preparation=preparation,
    )


def _for_channels(values: Sequence[float], count: int) -> tuple[float, ...]:
    """Return a value for each channel, as timm adapts a first convolution to their number."""
    given = [float(value) for value in values]
    if count == len(given):
        return tuple(given)
    if count == 1:
        return (sum(given) / len(given),)
    return tuple(given[place % len(given)] for place in range(count))


def _config_beside(weights: str) -> dict[str, Any] | None:
    """Return the ``pretrained_cfg`` of a ``config.json`` beside weights; None without one."""
    path = Path(weights).expanduser().with_name("config.json")
    if not path.is_file():
        return None
    what = f"weights: {path}, which says how images are prepared, cannot be read"
    try:
        config = json.loads(read_text_file(str(path), what=what, largest=MIB))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what}: {error}") from error
    found = config.get("pretrained_cfg", config) if isinstance(config, Mapping) else None
    if not isinstance(found, Mapping):
        return None
    kept = {name: found[name] for name, fits in _FIELDS.items() if found.get(name) is not None}
    bad = next((name for name, value in kept.items() if not _FIELDS[name](value)), None)
    if bad is not None:
        raise UserError(
            f"weights: {path}: {bad} is {str(kept[bad])[:60]!r}, which timm never writes"
        )
    return kept


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_per_channel(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_number(v) for v in value)


def _is_size(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(isinstance(v, int) and 0 < v <= 1 << 16 for v in value)
    )


_FIELDS = {
    "input_size": _is_size,
    "interpolation": lambda value: isinstance(value, str),
    "crop_pct": lambda value: _is_number(value) and 0 < value <= 1,
    "crop_mode": lambda value: isinstance(value, str),
    "mean": _is_per_channel,
    "std": lambda value: _is_per_channel(value) and min(value) > 0,
}
