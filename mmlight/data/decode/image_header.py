"""What an image's bytes say without decoding: format, size, damage, and which way up it is seen.

Cameras store what the sensor saw and note how to turn it (EXIF's orientation, 1 to 8). Pixels are
turned upright wherever an image is decoded; boxes are annotated in pixels of the image as stored,
as pycocotools' and torchvision's readers have them, and turn with it.

Shapes: C channels, H and W pixels, N boxes.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from PIL import Image
from torch import Tensor

from mmlight.batch import TURNS
from mmlight.data.decode.sound_file import riff_chunks


@dataclass(frozen=True)
class Head:
    """What the first bytes of an image say."""

    format: Literal["jpeg", "png", "webp"]
    width: int
    height: int


def read_head(data: bytes) -> Head | None:
    """Read format and size without decoding; None for formats that Pillow shall read."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR" and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
        return Head("png", width, height)
    if data[:2] == b"\xff\xd8":
        return _read_jpeg_head(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _read_webp_head(data)
    return None


def png_fault(data: bytes) -> str | None:
    """Return which chunk of a PNG is damaged, None where none is."""
    if data[:4] != b"\x89PNG":
        return None
    for position, name, end in _png_chunks(data):
        shown = name.decode("ascii", "replace")
        if end > len(data):
            return f"cut short inside the chunk {shown}"
        if zlib.crc32(data[position + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            return f"the checksum of the chunk {shown} at byte {position} is wrong"
    return None


def _png_chunks(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield start, name and end of each chunk; the last may be cut short."""
    position = 8
    while position + 8 <= len(data):
        (size,) = struct.unpack_from(">I", data, position)
        end = position + 12 + size
        yield position, data[position + 4 : position + 8], end
        position = end


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each segment before the scan, behind which are no headers."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # padding before a marker
            position += 1
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        if marker == 0xDA or length < 2:
            return
        yield marker, position + 4, position + 2 + length
        position += 2 + length


def _read_jpeg_head(data: bytes) -> Head | None:
    for marker, start, _ in _jpeg_segments(data):
        is_frame = 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)
        if is_frame and start + 5 <= len(data):
            height, width = struct.unpack_from(">HH", data, start + 1)
            return Head("jpeg", width, height)
    return None


def _read_webp_head(data: bytes) -> Head | None:
    kind = data[12:16]
    if kind == b"VP8X" and len(data) >= 30:
        if data[20] & 0x02:  # an animation: Pillow takes its first frame
            return None
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
    elif kind == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 " and len(data) >= 30:
        width = int.from_bytes(data[26:28], "little") & 0x3FFF
        height = int.from_bytes(data[28:30], "little") & 0x3FFF
    else:
        return None
    return Head("webp", width, height)


_TAG, _SHORT = 0x0112, 3
_EXIF = b"Exif\0\0"
_MOST_CHUNKS = 10_000


def read_orientation(data: bytes) -> int:
    """Return the orientation of a JPEG, PNG, WebP or TIFF image; 1, as stored, without a tag."""
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        try:
            with Image.open(io.BytesIO(data), formats=["TIFF"]) as image:
                return _known(image.getexif().get(_TAG, 1))
        # Pillow raises what it likes about broken headers; whoever decodes it says so.
        except Exception:
            return 1
    for block in _exif_blocks(data):
        return _orientation_of(block.removeprefix(_EXIF))
    return 1


def upright(pixels_CHW: Tensor, orientation: int) -> Tensor:
    """Turn pixels from how they are stored to how they are to be seen."""
    swap, mirror_x, mirror_y = TURNS[orientation]
    if swap:
        pixels_CHW = pixels_CHW.transpose(1, 2)
    axes = [axis for axis, turned in ((2, mirror_x), (1, mirror_y)) if turned]
    return pixels_CHW.flip(axes) if axes else pixels_CHW


def as_stored(pixels_CHW: Tensor, orientation: int) -> Tensor:
    """Turn pixels back to how they are stored."""
    swap, mirror_x, mirror_y = TURNS[orientation]
    axes = [axis for axis, turned in ((2, mirror_x), (1, mirror_y)) if turned]
    pixels_CHW = pixels_CHW.flip(axes) if axes else pixels_CHW
    return pixels_CHW.transpose(1, 2) if swap else pixels_CHW


def turn_boxes(xyxy_N4: Tensor, orientation: int, *, height: int, width: int) -> Tensor:
    """Turn boxes in pixels of an image as stored with it; height and width are those upright."""
    swap, mirror_x, mirror_y = TURNS[orientation]
    left, top, right, bottom = xyxy_N4[:, [1, 0, 3, 2] if swap else [0, 1, 2, 3]].unbind(1)
    turned_N4 = xyxy_N4.clone()
    turned_N4[:, 0], turned_N4[:, 2] = (width - right, width - left) if mirror_x else (left, right)
    turned_N4[:, 1], turned_N4[:, 3] = (
        (height - bottom, height - top) if mirror_y else (top, bottom)
    )
    return turned_N4


def _exif_blocks(data: bytes) -> Iterator[bytes]:
    if data[:2] == b"\xff\xd8":
        # Most have none, which the search tells sooner than a walk over small segments.
        for marker, start, end in _jpeg_segments(data) if _EXIF in data else ():
            if marker == 0xE1 and data.startswith(_EXIF, start):
                yield data[start:end]
    elif data[:4] == b"\x89PNG":
        for position, name, end in islice(_png_chunks(data), _MOST_CHUNKS):
            body = data[position + 8 : end - 4]
            if name == b"eXIf":
                yield body
            elif name == b"zTXt" and body.startswith(b"Raw profile type exif\0"):
                yield from _raw_profile(body)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        for name, start, size in riff_chunks(data, "<"):
            if name == b"EXIF":
                yield data[start : start + size]


def _raw_profile(body: bytes) -> Iterator[bytes]:
    """Yield what ImageMagick wrote before PNG had a chunk for it: lines of hexadecimal digits."""
    try:
        text = zlib.decompressobj().decompress(body[23:], 1 << 20)
        yield bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    except (zlib.error, ValueError):
        return


def _orientation_of(block: bytes) -> int:
    """Read the tag from a TIFF header and its first directory."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None or len(block) < 8:
        return 1
    (start,) = struct.unpack_from(f"{order}I", block, 4)
    if start + 2 > len(block):
        return 1
    (count,) = struct.unpack_from(f"{order}H", block, start)
    for place in range(start + 2, min(start + 2 + 12 * count, len(block) - 11), 12):
        tag, kind, _, value = struct.unpack_from(f"{order}HHIH", block, place)
        if tag == _TAG:
            return _known(value) if kind == _SHORT else 1
    return 1


def _known(value: object) -> int:
    return value if isinstance(value, int) and value in TURNS else 1
