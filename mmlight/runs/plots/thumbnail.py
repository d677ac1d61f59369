"""Small pictures of samples, for tables."""

import numpy as np

from mmlight.runs.plots.examples import spectrogram_db

_SIDE = 96
_SOUND = (80, 160)


def image_thumbnail(pixels_CHW: np.ndarray) -> np.ndarray:
    """Return (H, W, 3) uint8 whose longer side is 96 pixels; small images keep their pixels.

    Args:
        pixels_CHW: uint8, one channel or three.
    """
    from PIL import Image

    pixels_HWC = np.moveaxis(pixels_CHW, 0, -1)
    picture = Image.fromarray(np.repeat(pixels_HWC, 3 // pixels_HWC.shape[2], axis=2))
    factor = _SIDE / max(picture.size)
    width, height = (max(1, round(side * factor)) for side in picture.size)
    how = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS
    return np.asarray(picture.resize((width, height), how))


def sound_thumbnail(waveform_T: np.ndarray) -> np.ndarray:
    """Return (80, 160, 3) uint8, the spectrogram with low frequencies below.

    Args:
        waveform_T: samples.
    """
    from matplotlib import colormaps
    from PIL import Image

    power = spectrogram_db(waveform_T, num_fft=256)[::-1]
    colored = (255 * colormaps["magma"](1 + power / 80)[..., :3]).astype(np.uint8)
    picture = Image.fromarray(colored).resize(_SOUND[::-1], Image.Resampling.BILINEAR)
    return np.asarray(picture)
