"""Settings of the data that the user left out follow the towers.

What a tower says is `mmlight.encoders.encoder.Encoder.preparation`, or what the checkpoint that it
comes from holds, which may be anything.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

from mmlight.data.decode.audio import AudioSettings
from mmlight.data.decode.image import CropOffset, EvalCrop, ImageSettings, Interpolation
from mmlight.data.text import TextSettings
from mmlight.errors import UserError
from mmlight.text.clean import Cleaning
from mmlight.text.json_tokenizer import HfTokenizer
from mmlight.text.saved_tokenizer import tokenizer_from_state

# Where the user's own setting counts but is worth a line: the tower sees other pixels than those it
# was trained on. A wrong number of channels or sampling rate is refused elsewhere.
_PROBES = ("A small red house, 1905.", "na\u00efve U.S. don't")
_SAID = ("size", "interpolation", "eval_crop", "crop_pct", "crop_offset")


def follow_image(given: ImageSettings, wanted: Mapping[str, Any]) -> ImageSettings:
    """Fill in what a user's image settings leave out by what the image tower says."""
    return replace(given, **_left_out(given, _for_image(given, wanted))).complete()


def follow_audio(given: AudioSettings, wanted: Mapping[str, Any]) -> AudioSettings:
    """Fill in what a user's audio settings leave out by what the audio tower says."""
    return replace(given, **_left_out(given, wanted)).complete()


def follow_text(given: TextSettings, wanted: Mapping[str, Any]) -> TextSettings:
    """Fill in what a user's text settings leave out by the model that a task begins with.

    Args:
        given: the user's.
        wanted: what the text tower says; see `text_differs`.

    Raises:
        UserError: there is no tokenizer, neither here nor there.
    """
    filled = replace(given, **_left_out(given, wanted))
    if filled.tokenizer is None and "tokenizer" in wanted:
        filled = replace(filled, tokenizer=tokenizer_from_state(wanted["tokenizer"]))
    assert filled.known_tokenizer is not None
    return filled


def image_differs(given: ImageSettings, wanted: Mapping[str, Any]) -> str | None:
    """Return a line that says where a user's own settings are not what the image tower says."""
    wanted = _for_image(given, wanted)
    names = [n for n in _SAID if n in wanted and getattr(given, n) not in (None, wanted[n])]
    # Without weights that were trained on images, a size is the only one that the model takes, and
    # it refuses others itself.
    if not names or "interpolation" not in wanted:
        return None
    own, other = (
        ", ".join(f"{name}: {values[name]}" for name in names) for values in (vars(given), wanted)
    )
    return f"data.image is set to {own}; the image tower was made for {other}"


def text_differs(given: TextSettings, wanted: Mapping[str, Any]) -> str | None:
    """Return a line if a text tower was trained on another tokenizer's ids.

    Args:
        given: the user's.
        wanted: what the text tower says: the state of its ``tokenizer``, or the
            ``tokenizer_folder`` of a checkpoint of transformers. With ``is_required`` no other is
            allowed.

    Raises:
        UserError: another tokenizer than the one that is required.
    """
    try:
        if "tokenizer" in wanted:
            theirs = tokenizer_from_state(wanted["tokenizer"])
        elif "tokenizer_folder" in wanted:
            theirs = HfTokenizer(wanted["tokenizer_folder"])
        else:
            return None
    except UserError:
        return None  # the tower's file has none that can be read
    own, other = (one.encode(_PROBES, max_tokens=64) for one in (given.known_tokenizer, theirs))
    if own == other:
        return None
    line = (
        "data.text.tokenizer gives other ids than the tokenizer that the text tower was trained "
        f"with: '{_PROBES[0]}' is {own[0][:5]}..., there {other[0][:5]}..."
    )
    if wanted.get("is_required"):
        raise UserError(
            f"{line}; leave data.text.tokenizer out (null, where a file that is extended sets it): "
            "model.from_pretrained brings its"
        )
    return line


def _for_image(given: ImageSettings, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what makes no sense with the user's own crop."""
    wanted = {name: value for name, value in wanted.items() if _fits(name, value)}
    crop = given.crop if given.fits else given.eval_crop
    theirs = wanted.get("eval_crop")
    # Boxes need whole images and a classifier's random crops none: neither follows the other.
    if given.fits or (theirs == "fit" and crop is None):
        wanted.pop("eval_crop", None)
    if (crop or theirs) != theirs:
        wanted.pop("crop_pct", None)
    return wanted


def _left_out(given: Any, wanted: Mapping[str, Any]) -> dict[str, Any]:
    known = {name: value for name, value in wanted.items() if _fits(name, value)}
    return {n: value for n, value in known.items() if getattr(given, n, value) is None}


def _fits(name: str, value: Any) -> bool:
    """Whether a setting may have this value."""
    is_number = type(value) in (int, float)
    tests: dict[str, bool] = {
        "size": type(value) is int and 0 < value <= 1 << 16,
        "channels": type(value) is int and value in (1, 3),
        "eval_crop": value in get_args(EvalCrop),
        "interpolation": value in get_args(Interpolation),
        "crop_pct": is_number and 0 < value <= 1,
        "crop_offset": value in get_args(CropOffset),
        "sample_rate_hz": type(value) is int and value > 0,
        "max_seconds": is_number and 0 < value < 1e6,
        "max_tokens": type(value) is int and 3 <= value <= 1 << 20,
        "clean": value in get_args(Cleaning),
    }
    return tests.get(name, False)
