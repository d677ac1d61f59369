"""The frames of compressed sound: pages of Ogg, frames of FLAC and MP3."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

_MAX_FLAC_FRAME = 1 << 20


def _crc_table(polynomial: int, *, bits: int) -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte << bits - 8
        for _ in range(8):
            crc = (crc << 1 ^ polynomial if crc >> bits - 1 else crc << 1) & (1 << bits) - 1
        table.append(crc)
    return tuple(table)


_CRC8, _CRC16 = _crc_table(0x07, bits=8), _crc_table(0x8005, bits=16)
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def check_ogg(data: bytes) -> None:
    """Check every page of an Ogg file and that the last one says it is the last (RFC 3533).

    libvorbis and libopus pass over a damaged page in silence, and play what is there of a stream.

    Raises:
        ValueError: a page is damaged or missing.
    """
    # Ogg's checksum is zlib's, but for the order of the bits within each byte, and the start.
    turned = memoryview(data.translate(_REVERSED))
    position, is_last = 0, False
    while position < len(data):
        if data[position : position + 4] != b"OggS":
            if is_last and data.find(b"OggS", position) < 0:
                return  # tags or zeros behind the end
            raise ValueError(f"no Ogg page at byte {position}")
        body = position + 27 + (data[position + 26] if position + 27 <= len(data) else 0)
        end = body + sum(data[position + 27 : body])
        if body > len(data) or end > len(data):
            raise ValueError(f"cut short inside the Ogg page at byte {position}")
        checksum = zlib.crc32(turned[position : position + 22], 0xFFFF_FFFF)
        checksum = zlib.crc32(turned[position + 26 : end], zlib.crc32(bytes(4), checksum))
        checksum ^= 0xFFFF_FFFF
        (stored,) = struct.unpack_from("<I", data, position + 22)
        if int(f"{checksum:032b}"[::-1], 2) != stored:
            raise ValueError(f"the checksum of the Ogg page at byte {position} is wrong")
        is_last = bool(data[position + 5] & 4)
        position = end
    if not is_last:
        raise ValueError(
            "cut short: no Ogg page says it is the last (if the sound is whole, write it again "
            "with ffmpeg -i OLD -c copy NEW)"
        )


def complete_flac(data: bytes) -> bytes:
    """Return a FLAC file with its number of samples in the header, where a pipe left it out.

    libsndfile itself says when fewer samples come than the header tells.

    Raises:
        ValueError: the header tells no number, and the file does not end with a whole frame.
    """
    if len(data) < 42 or data[4] & 0x7F:  # STREAMINFO comes first
        return data
    (stated,) = struct.unpack_from(">Q", data, 18)
    if stated & 0xF_FFFF_FFFF:
        return data
    largest = struct.unpack_from(">H", data, 10)[0]
    audio = data[:-128] if data[-128:-125] == b"TAG" else data
    first, place = max(42, len(audio) - _MAX_FLAC_FRAME), len(audio)
    while (place := audio.rfind(b"\xff", first, place)) >= 0:
        if audio[place + 1 : place + 2] not in (b"\xf8", b"\xf9"):
            continue
        frame = audio[place:]
        header = _flac_header(frame, largest)
        if header is None:
            continue  # these bytes stand within a frame
        if _crc(frame, _CRC16, bits=16):
            break
        return data[:18] + struct.pack(">Q", stated | header) + data[26:]
    raise ValueError("cut short: the last FLAC frame is not whole")


def _flac_header(frame: bytes, largest: int) -> int | None:
    """Return the number of samples up to the end of a frame, None where no frame begins."""
    if len(frame) < 16:
        return None
    first = frame[4]  # a number as UTF-8 writes it, of up to 36 bits
    if first == 0xFF or 0x80 <= first < 0xC0:
        return None
    extra = 0 if first < 0x80 else f"{first:08b}".find("0") - 1
    number = first & (0x3F >> extra) if extra else first
    for byte in frame[5 : 5 + extra]:
        number = number << 6 | byte & 0x3F
    end = 5 + extra
    code = frame[2] >> 4
    if code == 0:
        return None
    if code == 1:
        size = 192
    elif code < 6:
        size = 576 << (code - 2)
    elif code == 6:
        size, end = frame[end] + 1, end + 1
    elif code == 7:
        size, end = (frame[end] << 8 | frame[end + 1]) + 1, end + 2
    else:
        size = 256 << (code - 8)
    end += {12: 1, 13: 2, 14: 2}.get(frame[2] & 0xF, 0)
    if _crc(frame[:end], _CRC8, bits=8) != frame[end]:
        return None
    return number + size if frame[1] & 1 else number * largest + size


def _crc(data: bytes, table: tuple[int, ...], *, bits: int) -> int:
    crc = 0
    for byte in data:
        crc = (crc << 8 & (1 << bits) - 1) ^ table[(crc >> bits - 8) ^ byte]
    return crc


@dataclass(frozen=True)
class _Frame:
    """The header of an MPEG audio frame."""

    size: int
    num_samples: int
    side_info: int
    layer: int


# kbit/s of layers I, II and III, of MPEG 1 and of MPEG 2 and 2.5 (ISO 11172-3, 13818-3).
_RATES_V1 = {
    1: (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    2: (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    3: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
}
_RATES_V2 = {
    1: (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    3: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_HIGHEST_RATE = 14 << 4
# Where frames are so many times smaller on average than the first one, they are counted.
_PLAUSIBLE = 4


def complete_mp3(data: bytes) -> bytes:
    """Return an MP3 file with its length in front, where no encoder wrote it.

    Without it libmpg123 guesses from the first frames, up to ten times what is there.

    Raises:
        ValueError: the last frame is not whole, or there are fewer than the header tells.
    """
    start = _skip_id3(data, 0)
    first = _frame(data, start)
    if first is None or first.layer != 3:
        return data  # free bit rates, junk in front, layers I and II: the decoder finds its way
    stated, num_bytes = _stated_length(data, start, first)
    # A header may claim hours of a second, and training would look for sound at the fifth hour.
    if stated is not None and 0 < num_bytes <= len(data) - start:
        if stated * first.size <= _PLAUSIBLE * num_bytes:
            return data
    num_frames = sum(1 for _ in _frames(data, start))
    if stated is None:
        return data[:start] + _length_frame(data, start, num_frames) + data[start:]
    if num_frames < stated:  # some encoders count the frame of the header itself
        raise ValueError(f"cut short: {num_frames} of {stated} MP3 frames")
    return data


def _skip_id3(data: bytes, position: int) -> int:
    while data[position : position + 3] == b"ID3" and position + 10 <= len(data):
        size = 0
        for byte in data[position + 6 : position + 10]:
            size = size << 7 | byte & 0x7F
        position += 10 + size + (10 if data[position + 5] & 0x10 else 0)
    return position


def _frame(data: bytes, position: int) -> _Frame | None:
    head = data[position : position + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    rate, sampling = head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer == 4 or rate in (0, 15) or sampling == 3:
        return None
    is_first = version == 3
    bits_per_s = 1000 * (_RATES_V1 if is_first else _RATES_V2)[layer][rate - 1]
    rate_hz = (44_100, 48_000, 32_000)[sampling] >> {3: 0, 2: 1, 0: 2}[version]
    padding = head[2] >> 1 & 1
    is_mono = head[3] >> 6 == 3
    side_info = (17 if is_mono else 32) if is_first else (9 if is_mono else 17)
    if layer == 1:
        return _Frame((12 * bits_per_s // rate_hz + padding) * 4, 384, side_info, layer)
    num_samples = 1152 if layer == 2 or is_first else 576
    size = num_samples // 8 * bits_per_s // rate_hz + padding
    return _Frame(size, num_samples, side_info, layer)


def _frames(data: bytes, start: int) -> Iterator[_Frame]:
    """Yield the frames from a position on, beyond tags and junk between them."""
    position = start
    while position < len(data):
        frame = _frame(data, position)
        if frame is None or not _is_like(data, position, start):
            position = _next_frame(data, position, start)
            continue
        if position + frame.size > len(data):
            raise ValueError("cut short: the last MP3 frame is not whole")
        yield frame
        position += frame.size


def _next_frame(data: bytes, position: int, start: int) -> int:
    """Return where two frames like the first follow one another again, or the end."""
    position = _skip_id3(data, position)
    while 0 <= position < len(data):
        frame = _frame(data, position) if _is_like(data, position, start) else None
        if frame is not None and _is_like(data, position + frame.size, start):
            return position
        position = data.find(b"\xff", position + 1)
    return len(data)


def _is_like(data: bytes, position: int, start: int) -> bool:
    """Return whether sync, version, layer and sampling rate are those of the first frame."""
    one, other = data[position : position + 3], data[start : start + 3]
    return (
        one[:1] == b"\xff"
        and len(one) == 3
        and not ((one[1] ^ other[1]) & 0xFE or (one[2] ^ other[2]) & 0x0C)
    )


def _stated_length(data: bytes, start: int, first: _Frame) -> tuple[int | None, int]:
    """Return the number of frames and bytes that a Xing or VBRI header tells; None without one."""
    for place in (start + 4 + first.side_info, start + 6 + first.side_info):
        if data[place : place + 4] in (b"Xing", b"Info") and place + 16 <= len(data):
            flags, one, other = struct.unpack_from(">III", data, place + 4)
            if flags & 1:
                return one, other if flags & 2 else 0
    place = start + 4 + 32
    if data[place : place + 4] == b"VBRI" and place + 18 <= len(data):
        num_bytes, num_frames = struct.unpack_from(">II", data, place + 10)
        return num_frames, num_bytes
    return None, 0


def _length_frame(data: bytes, start: int, num_frames: int) -> bytes:
    """Return a frame like the first, without sound, that tells the length as encoders do."""
    head = bytes(
        [0xFF, data[start + 1] | 1, _HIGHEST_RATE | data[start + 2] & 0x0C, data[start + 3]]
    )
    frame = _frame(head, 0)
    assert frame is not None
    size = frame.size + len(data) - start
    body = head + bytes(frame.side_info) + b"Xing" + struct.pack(">III", 3, num_frames, size)
    return body.ljust(frame.size, b"\0")
