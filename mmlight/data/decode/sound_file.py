"""Whether a sound file is all there: most decoders play half a file without a word.

Read from headers alone, so that it costs little beside decoding. What a program wrote that could
not go back to the header (a pipe) states no length there; such a file is whole.
"""

import io
import struct
from collections.abc import Iterator

from mmlight.data.decode import sound_frames

# What streams state as their length: 0xFFFFFFFF (ffmpeg), 0x7FFFF000 and 0x7F000024 (SoX).
_UNKNOWN_FROM = 0x7F00_0000
_MAX_CHUNKS = 10_000


class SoundBytes(io.BytesIO):
    """A sound file in memory, completed (see `complete`), as soundfile opens it.

    A damaged header may send libsndfile to a place before the start; an exception within its
    callback would print a traceback.

    Raises:
        ValueError: likewise.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(complete(data))

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to a place; stay where none is."""
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


def complete(data: bytes) -> bytes:
    """Return a sound file as a decoder shall read it: the same, or with its length filled in.

    Args:
        data: RIFF and RF64 (WAV), AIFF, AU, NIST SPHERE, Ogg, FLAC or MP3; others are returned as
            they are.

    Raises:
        ValueError: the file is shorter than it says, or a page of an Ogg file is damaged.
    """
    match data[:4]:
        case b"RIFF" | b"RIFX" | b"RF64":
            return _wave(data)
        case b"FORM":
            _aiff(data)
        case b".snd":
            offset, size = _unpack(">II", data, 4)
            _check_end(offset + size, data, is_known=size < _UNKNOWN_FROM)
        case b"NIST":
            _sphere(data)
        case b"OggS":
            sound_frames.check_ogg(data)
        case b"fLaC":
            return sound_frames.complete_flac(data)
        case _ if data[:3] == b"ID3" or (data[:1] == b"\xff" and data[1:2] >= b"\xe0"):
            return sound_frames.complete_mp3(data)
    return data


def _wave(data: bytes) -> bytes:
    order = ">" if data[:4] == b"RIFX" else "<"
    long_size = None
    for name, start, size in riff_chunks(data, order):
        if name == b"ds64":
            long_size = _unpack("<Q", data, start + 8)[0]
        if name != b"data":
            continue
        if data[:4] == b"RF64" and long_size is not None and size >= _UNKNOWN_FROM:
            size = long_size
            _check_end(start + size, data, is_known=0 < size < 1 << 63)
        elif size == 0 and _unpack(f"{order}I", data, 4)[0] + 8 < len(data):
            # A writer that never came back to the header; libsndfile takes the 0 at its word.
            return data[: start - 4] + b"\xff\xff\xff\xff" + data[start:]
        else:
            _check_end(start + size, data, is_known=size < _UNKNOWN_FROM)
        return data
    return data  # without sound: the decoder says so


def _aiff(data: bytes) -> None:
    for name, start, size in riff_chunks(data, ">"):
        if name == b"SSND":
            _check_end(start + size, data, is_known=size < _UNKNOWN_FROM)
            return


def riff_chunks(data: bytes, order: str) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and size of the chunks of a RIFF or IFF file."""
    position = 12
    for _ in range(_MAX_CHUNKS):
        if position + 8 > len(data):
            return
        (size,) = _unpack(f"{order}I", data, position + 4)
        yield data[position : position + 4], position + 8, size
        position += 8 + size + size % 2


def _sphere(data: bytes) -> None:
    """Check a file of LDC's corpora (TIMIT, AN4): text in the header, then the samples."""
    fields = {}
    for line in data[:4096].split(b"\n"):
        if line.strip() == b"end_head":
            break
        words = line.split()
        if len(words) == 3 and words[1] == b"-i" and words[2].isdigit() and len(words[2]) < 19:
            fields[words[0]] = int(words[2])
    header = data[8:16].strip()
    wanted = (b"sample_count", b"channel_count", b"sample_n_bytes")
    if header.isdigit() and all(name in fields for name in wanted):
        size = fields[wanted[0]] * fields[wanted[1]] * fields[wanted[2]]
        _check_end(int(header) + size, data)


def _unpack(format: str, data: bytes, position: int) -> tuple[int, ...]:
    if position + struct.calcsize(format) > len(data):
        raise ValueError("cut short inside its header")
    return struct.unpack_from(format, data, position)


def _check_end(end: int, data: bytes, *, is_known: bool = True) -> None:
    if is_known and end > len(data):
        raise ValueError(f"cut short: {len(data)} bytes, its header says {end}")
