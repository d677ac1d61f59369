"""Sounds of a run that can be listened to: kept beside pictures, and played in the report."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmlight.files import read_json, write_bytes, write_json

_MOST_BYTES = 6_000_000  # of all sounds that one page holds; later ones stay beside it
_LONGEST_S = 20


def flac(waveform_T: np.ndarray, sample_rate_hz: int) -> bytes:
    """Return a sound as a FLAC file.

    Args:
        waveform_T: (T,) in [-1, 1].
        sample_rate_hz: of it.
    """
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, waveform_T, sample_rate_hz, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def keep_sounds(
    picture: Path, sounds: Sequence[tuple[str, np.ndarray]], *, sample_rate_hz: int
) -> None:
    """Write the sounds that a picture shows to `sounds/` beside it, at most 20 s of each.

    Args:
        picture: the PNG.
        sounds: what each is, and its (T,) waveform.
        sample_rate_hz: of the waveforms.
    """
    kept = []
    for number, (about, waveform_T) in enumerate(sounds):
        if not len(waveform_T):
            continue
        path = picture.parent / "sounds" / f"{picture.stem}_{number:02d}.flac"
        write_bytes(path, flac(waveform_T[: _LONGEST_S * sample_rate_hz], sample_rate_hz))
        kept.append({"about": about, "file": path.name})
    write_json(_listed(picture), {"sounds": kept})


class Sounds:
    """The sounds of a page, which holds up to 6 MB of them itself.

    Args:
        folder: where the page lies; what it does not hold is played from there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._left = _MOST_BYTES

    def source(self, path: Path) -> str | None:
        """Return what a page plays a FLAC file from; None where it is gone.

        Args:
            path: below the page's folder.
        """
        if not path.is_file():
            return None
        if (size := path.stat().st_size) > self._left:
            return path.relative_to(self._folder).as_posix()
        self._left -= size
        return f"data:audio/flac;base64,{base64.b64encode(path.read_bytes()).decode()}"

    def of(self, picture: Path) -> list[dict[str, str]]:
        """Return `about` and `source` of each sound that a picture shows, as far as it was kept."""
        listed = read_json(_listed(picture)) or {}
        return [
            {"about": sound["about"], "source": source}
            for sound in listed.get("sounds", ())
            if (source := self.source(picture.parent / "sounds" / Path(sound["file"]).name))
        ]


def _listed(picture: Path) -> Path:
    return picture.parent / "sounds" / f"{picture.stem}.json"
