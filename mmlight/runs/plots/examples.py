"""Examples: what was retrieved for a query, what sounds look like, small pictures for tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mmlight.runs.plots.canvas import (
    BAD,
    FAIR,
    GOOD,
    bare,
    border,
    new_figure,
    save,
    show_pixels,
    wrap,
)

_RANGE_DB = 80.0  # of a spectrogram: what lies further below the loudest is cut off
_FRAMES = {"own": GOOD, "class": FAIR, "other": BAD}
_LEGEND = {"own": "green: its own", "class": "orange: of its class", "other": "red: another"}


@dataclass(frozen=True)
class Example:
    """One sample in one modality, to be looked at.

    Attributes:
        pixels_CHW: uint8, for an image.
        waveform_T: float in [-1, 1] without padding, for a sound.
        caption: the text, or what is known about the image or sound; may be empty.
    """

    pixels_CHW: np.ndarray | None = None
    waveform_T: np.ndarray | None = None
    caption: str = ""


@dataclass(frozen=True)
class Found:
    """One retrieved example.

    Attributes:
        example: what was found.
        similarity: cosine similarity to the query.
        match: it belongs to the query's own sample, to another one of its class, or to neither.
    """

    example: Example
    similarity: float
    match: Literal["own", "class", "other"]


@dataclass(frozen=True)
class Retrieval:
    """A query and the best of the gallery, best first."""

    query: Example
    found: Sequence[Found]


def plot_retrieval(
    retrievals: Sequence[Retrieval],
    path: Path,
    *,
    query: str,
    gallery: str,
    num_gallery: int,
    sample_rate_hz: int | None = None,
) -> Path:
    """Draw a row per query: the query, then what was found, framed by what it is.

    Args:
        retrievals: queries with equally many finds.
        path: the PNG to write.
        query: modality of the queries.
        gallery: modality of the finds.
        num_gallery: how many were searched.
        sample_rate_hz: of the waveforms.
    """
    columns = 1 + len(retrievals[0].found)
    figure = new_figure(width=2.0 * columns, height=2.1 * len(retrievals) + 0.5)
    seen = {found.match for retrieval in retrievals for found in retrieval.found}
    legend = [text for match, text in _LEGEND.items() if match in seen]
    title = f"{query} → {gallery}: best of {num_gallery}   ({', '.join(legend)})"
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(len(retrievals), columns, squeeze=False)
    for line, retrieval in zip(grid, retrievals, strict=True):
        show_example(line[0], retrieval.query, sample_rate_hz)
        border(line[0], "#444444", width=1.2)
        line[0].set_ylabel("query", fontsize=9)
        for axes, found in zip(line[1:], retrieval.found, strict=True):
            show_example(axes, found.example, sample_rate_hz)
            border(axes, _FRAMES[found.match])
            axes.set_title(f"{found.similarity:.2f}", fontsize=9, color=_FRAMES[found.match])
    return save(figure, path)


def plot_spectrograms(
    examples: Sequence[Example], path: Path, *, sample_rate_hz: int | None = None
) -> Path:
    """Draw sounds as spectrograms, with their captions above.

    Args:
        examples: sounds.
        path: the PNG to write.
        sample_rate_hz: sets the axes in seconds and kHz; None leaves them in samples.
    """
    columns = min(3, len(examples))
    lines = -(-len(examples) // columns)
    figure = new_figure(width=4.2 * columns, height=2.7 * lines + 0.3)
    grid = figure.subplots(lines, columns, squeeze=False)
    for number, axes in enumerate(grid.flat):
        if number >= len(examples):
            axes.axis("off")
            continue
        example = examples[number]
        assert example.waveform_T is not None
        picture = _draw_spectrogram(axes, example.waveform_T, sample_rate_hz)
        axes.set_title(wrap(example.caption, width=46, lines=2), fontsize=8)
        axes.tick_params(labelsize=8)
        axes.set_xlabel("time (s)" if sample_rate_hz else "time (samples)", fontsize=8)
        if number % columns == 0:
            axes.set_ylabel("frequency (kHz)" if sample_rate_hz else "frequency bin", fontsize=8)
    figure.colorbar(picture, ax=grid, label="power (dB, loudest = 0)", shrink=0.8)
    return save(figure, path)


def spectrogram_db(waveform_T: np.ndarray, *, num_fft: int) -> np.ndarray:
    """Return (num_fft / 2 + 1, frames) power in dB below the loudest bin, at least -80.

    Args:
        waveform_T: (T,) samples.
        num_fft: width of the Hann window, samples; it moves by a quarter of that.
    """
    waveform_T = np.pad(waveform_T, (0, max(num_fft - len(waveform_T), 0)))
    frames = np.lib.stride_tricks.sliding_window_view(waveform_T, num_fft)[:: num_fft // 4]
    power = np.abs(np.fft.rfft(frames * np.hanning(num_fft), axis=1).T) ** 2
    loudest = power.max()
    if loudest <= 0:
        return np.full(power.shape, -_RANGE_DB)
    return np.maximum(10 * np.log10(np.maximum(power / loudest, 1e-30)), -_RANGE_DB)


def _draw_spectrogram(axes: Any, waveform_T: np.ndarray, sample_rate_hz: int | None) -> Any:
    width = 256 if (sample_rate_hz or 16_000) < 12_000 else 512
    power = spectrogram_db(waveform_T, num_fft=width)
    rate = sample_rate_hz or 1
    top = sample_rate_hz / 2000 if sample_rate_hz else power.shape[0]
    return axes.imshow(
        power,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=-_RANGE_DB,
        vmax=0,
        extent=(0, max(len(waveform_T), 1) / rate, 0, top),
    )


def show_example(axes: Any, example: Example, sample_rate_hz: int | None) -> None:
    """Draw an example: its image, else its spectrogram, with the caption below; else its text.

    Args:
        axes: matplotlib axes.
        example: what to draw.
        sample_rate_hz: of its waveform.
    """
    if example.pixels_CHW is not None:
        show_pixels(axes, example.pixels_CHW)
    elif example.waveform_T is not None:
        _draw_spectrogram(axes, example.waveform_T, sample_rate_hz)
        axes.set_box_aspect(1)
    else:
        text = wrap(example.caption, width=20, lines=7)
        axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=9, transform=axes.transAxes)
        axes.set_box_aspect(1)
    bare(axes)
    if example.caption and (example.pixels_CHW is not None or example.waveform_T is not None):
        axes.set_xlabel(wrap(example.caption, width=26, lines=2), fontsize=8)


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
    colored = (255 * colormaps["magma"](1 + power / _RANGE_DB)[..., :3]).astype(np.uint8)
    picture = Image.fromarray(colored).resize(_SOUND[::-1], Image.Resampling.BILINEAR)
    return np.asarray(picture)
