"""What a member's bytes say about themselves: size of an image, duration of a sound, faults."""

import io
import math
import warnings
from functools import lru_cache
from typing import Literal

from mmlight.data.decode.sound_file import SoundBytes

Kind = Literal["image", "audio", "text", "json", "other"]

# By the ending of the file's name.
ENDINGS: dict[Kind, tuple[str, ...]] = {
    "image": ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm"),
    "audio": ("flac", "wav", "ogg", "opus", "mp3", "aiff", "aif"),
    "text": ("txt", "text", "transcript", "cls"),
    "json": ("json",),
}
# Given explicitly, so that no rarer decoder of Pillow (EPS runs a program) sees foreign bytes.
PILLOW_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


@lru_cache(maxsize=1024)
def kind(extension: str) -> Kind:
    """Tell what a member holds by the last part of its extension (``mask.png`` is an image)."""
    last = extension.rpartition(".")[2]
    return next((name for name, known in ENDINGS.items() if last in known), "other")


def image_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) in pixels from an image's header, (0, 0) if it can't be read."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=PILLOW_FORMATS) as image:
                return image.size
    # Pillow raises what it likes about broken headers; whoever decodes it counts and names it.
    except Exception:
        return 0, 0


def duration_s(data: bytes) -> float:
    """Return a sound's duration in seconds from its header, nan if it can't be read."""
    import soundfile

    try:
        info = soundfile.info(SoundBytes(data))
        return info.frames / info.samplerate if info.frames >= 0 else math.nan
    except (OSError, ValueError, RuntimeError, ZeroDivisionError):
        return math.nan  # a bad sample: whoever decodes it counts and names it
