"""Small real tar files for tests, written with the standard library alone."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image


def write_tar(
    path: Path, members: Iterable[tuple[str, bytes]], *, format: int = tarfile.PAX_FORMAT
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def text_shard(path: Path, count: int, *, size: int = 700, first: int = 0) -> Path:
    """A shard whose sample n has members txt (size bytes) and cls."""
    members = []
    for n in range(first, first + count):
        members.append((f"{n:06d}.txt", f"{n:06d} ".encode().ljust(size, b"x")))
        members.append((f"{n:06d}.cls", str(n % 10).encode()))
    return write_tar(path, members)


def png(width: int, height: int, *, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def sound(seconds: float, *, rate_hz: int = 8000, format: str = "FLAC") -> bytes:
    wave = np.sin(np.arange(int(seconds * rate_hz)) * 0.1) * 0.5
    file = io.BytesIO()
    soundfile.write(file, wave, rate_hz, format=format)
    return file.getvalue()
