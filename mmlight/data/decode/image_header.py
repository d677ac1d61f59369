"""Format, size and damage of an image, read from its bytes without decoding."""

import struct
import zlib
from dataclasses import dataclass
from typing import Literal


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
    position = 8
    while position + 8 <= len(data):
        (size,) = struct.unpack_from(">I", data, position)
        end = position + 12 + size
        name = data[position + 4 : position + 8].decode("ascii", "replace")
        if end > len(data):
            return f"cut short inside the chunk {name}"
        if zlib.crc32(data[position + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            return f"the checksum of the chunk {name} at byte {position} is wrong"
        position = end
    return None


def _read_jpeg_head(data: bytes) -> Head | None:
    position = 2
    while position + 9 <= len(data):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF:  # padding before a marker
            position += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            height, width = struct.unpack(">HH", data[position + 5 : position + 9])
            return Head("jpeg", width, height)
        (length,) = struct.unpack(">H", data[position + 2 : position + 4])
        position += 2 + length
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
