"""Images and sounds as people have them in Python, as bytes that the decoders of training take."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import soundfile
from PIL import Image, ImageOps

from mmlight.data.sample import BadMemberError
from mmlight.errors import UserError

T = TypeVar("T")
ImageInput = str | Path | bytes | Image.Image | np.ndarray
SoundInput = str | Path | bytes | tuple[np.ndarray, int]

# What PNG holds; other modes become RGB.
_PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")
# Full scale is 1; a float beyond this is most likely a whole number of 16 bits.
_LOUDEST = 16.0


def decoded(decode: Callable[[bytes], T], data: bytes, *, name: str) -> T:
    """Decode an input.

    Args:
        decode: what does it.
        data: the input as bytes.
        name: what it is called in a message: its path, or its place.

    Raises:
        UserError: it cannot be decoded; it says why.
    """
    try:
        return decode(data)
    except UserError:
        raise
    # Decoders raise what they like about broken bytes.
    except Exception as error:
        raise UserError(f"{name}: {BadMemberError('', error).reason}") from error


def name_of(given: object, place: int) -> str:
    """Return what an input is called in messages."""
    return str(given) if isinstance(given, str | Path) else f"input {place} (counted from 0)"


def image_bytes(image: ImageInput, *, name: str) -> bytes:
    """Return an image as a file holds it.

    Args:
        image: a path, the bytes of a file, a PIL image (turned upright, as a file is), or an (H, W,
            3) or (H, W) array of uint8.
        name: what it is called in messages.

    Raises:
        UserError: no such file, or no such image.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | Path):
        return _read(image)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8:
            raise UserError(f"{name}: an image array must be uint8, not {image.dtype}")
        if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (3, 4)):
            raise UserError(
                f"{name}: an image array must have the shape (H, W, 3) or (H, W), not {image.shape}"
            )
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise UserError(
            f"{name}: an image is a path, bytes, a PIL image or an array, not a "
            f"{type(image).__name__}"
        )
    image = ImageOps.exif_transpose(image)
    buffer = io.BytesIO()
    (image if image.mode in _PNG_MODES else image.convert("RGB")).save(buffer, format="PNG")
    return buffer.getvalue()


def sound_bytes(sound: SoundInput, *, name: str) -> bytes:
    """Return a sound as a file holds it.

    Args:
        sound: a path, the bytes of a file, or a pair of samples, (T,) or (T, channels), and their
            rate in Hz. Whole numbers are scaled by their type, whose range is full scale; floats
            have theirs at 1.
        name: what it is called in messages.

    Raises:
        UserError: no such file, or no such samples.
    """
    if isinstance(sound, bytes):
        return sound
    if isinstance(sound, str | Path):
        return _read(sound)
    if not isinstance(sound, tuple | list) or len(sound) != 2:
        raise UserError(
            f"{name}: a sound is a path, bytes, or a pair of samples and their rate in Hz, not a "
            f"{type(sound).__name__}"
        )
    samples, rate_hz = np.asarray(sound[0]), sound[1]
    if isinstance(rate_hz, bool) or not isinstance(rate_hz, int | np.integer) or rate_hz < 1:
        raise UserError(f"{name}: a sampling rate is a whole number of Hz, not {rate_hz!r}")
    if samples.ndim not in (1, 2) or samples.size == 0:
        raise UserError(
            f"{name}: samples must have the shape (T,) or (T, channels), not {samples.shape}"
        )
    buffer = io.BytesIO()
    scaled = _full_scale(samples, name=name)
    soundfile.write(buffer, scaled, int(rate_hz), format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def _full_scale(samples: np.ndarray, *, name: str) -> np.ndarray:
    """Return samples as floats between -1 and 1."""
    if samples.dtype.kind in "iu":
        size = 1 << (8 * samples.dtype.itemsize - 1)
        middle = size if samples.dtype.kind == "u" else 0  # 8 bits of WAV have silence at 128
        return ((samples.astype(np.float64) - middle) / size).astype(np.float32)
    if samples.dtype.kind != "f":
        raise UserError(f"{name}: samples must be floats or whole numbers, not {samples.dtype}")
    loudest = float(np.abs(samples).max())
    if loudest > _LOUDEST:  # nan is the decoder's to say
        warnings.warn(
            f"{name}: the samples reach {loudest:.6g} and are clipped to 1, where floats have full "
            "scale; divide them by their range (32768 for 16 bits), or give whole numbers",
            stacklevel=2,
        )
        samples = samples.clip(-1, 1)
    return samples.astype(np.float32)


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
