"""What a member's bytes say about themselves: size of an image, duration of a sound, faults."""

import io
import json
import math
import warnings
from typing import Literal

Kind = Literal["image", "audio", "text", "json", "other"]

_KINDS: dict[Kind, frozenset[str]] = {
    "image": frozenset({"jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm"}),
    "audio": frozenset({"flac", "wav", "ogg", "opus", "mp3"}),
    "text": frozenset({"txt", "text", "transcript", "cls"}),
    "json": frozenset({"json"}),
}
# Given explicitly, so that no rarer decoder of Pillow (EPS runs a program) sees foreign bytes.
_IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


def kind(extension: str) -> Kind:
    """Tell what a member holds by the last part of its extension (``mask.png`` is an image)."""
    last = extension.rpartition(".")[2]
    return next((name for name, known in _KINDS.items() if last in known), "other")


def image_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) in pixels from an image's header, (0, 0) if it can't be read."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=_IMAGE_FORMATS) as image:
                return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return 0, 0  # a bad sample: whoever decodes it counts and names it


def duration_s(data: bytes) -> float:
    """Return a sound's duration in seconds from its header, nan if it can't be read."""
    import soundfile

    try:
        info = soundfile.info(io.BytesIO(data))
    except (OSError, ValueError, RuntimeError):
        return math.nan  # a bad sample: whoever decodes it counts and names it
    return info.frames / info.samplerate if info.frames >= 0 else math.nan


def fault(extension: str, data: bytes) -> str | None:
    """Decode a member completely and say in one line what is wrong with it, None if nothing is."""
    try:
        match kind(extension):
            case "image":
                return _image_fault(data)
            case "audio":
                return _audio_fault(data)
            case "text":
                data.decode("utf-8")
            case "json":
                json.loads(data)
    except ValueError as error:
        return f"{type(error).__name__}: {error}"
    return None


def _image_fault(data: bytes) -> str | None:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=_IMAGE_FORMATS) as image:
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        # Pillow names the buffer by its address, which differs from run to run.
        text = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
        return f"{type(error).__name__}: {text}"
    return None


def _audio_fault(data: bytes) -> str | None:
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(data)) as sound:
            num_decoded = 0
            for block in sound.blocks(blocksize=1 << 16, dtype="float32"):
                num_decoded += len(block)
            if num_decoded < sound.frames:
                return f"cut short: {num_decoded} of {sound.frames} samples"
            return None if num_decoded else "no samples"
    except (OSError, ValueError, RuntimeError) as error:
        # The plain text of libsndfile, which lacks the buffer's address.
        return f"{type(error).__name__}: {getattr(error, 'error_string', error)}"
