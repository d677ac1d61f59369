"""Captions below what they are about, and what each of their words looked at."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmlight.runs.plots.canvas import BAD, GOOD, bare, border, new_figure, save, show_pixels, wrap
from mmlight.runs.plots.examples import Example, show_example

_COLUMNS = 4
_MOST_WORDS = 14


@dataclass(frozen=True)
class Captioned:
    """A sample, the caption that was generated for it, and one that a person wrote.

    Attributes:
        example: the image or sound.
        found: what was generated.
        right: what is right; of several the first.
        is_exact: whether they are the same.
    """

    example: Example
    found: str
    right: str
    is_exact: bool


@dataclass(frozen=True)
class WordMaps:
    """A picture and what each word of its caption looked at.

    Attributes:
        picture: an image (C, H, W) of uint8, or a spectrogram (R, K), lowest band first.
        words: of the caption.
        maps_WRC: how much each word looked at each cell; the largest of a word is full red.
        covered: which part of the cells' height and width the picture is.
    """

    picture: np.ndarray
    words: Sequence[str]
    maps_WRC: np.ndarray
    covered: tuple[float, float] = (1.0, 1.0)


def plot_captions(
    captioned: Sequence[Captioned], path: Path, *, sample_rate_hz: int | None = None
) -> Path:
    """Draw samples with their captions, framed by whether these are exact.

    Args:
        captioned: the samples.
        path: the PNG to write.
        sample_rate_hz: of sounds.
    """
    lines = -(-len(captioned) // _COLUMNS)
    columns = min(_COLUMNS, len(captioned))
    figure = new_figure(width=2.6 * columns, height=2.9 * lines + 0.4)
    figure.suptitle("generated captions (green: exact; red: what is right, below)", fontsize=11)
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat[len(captioned) :]:
        axes.axis("off")
    for axes, one in zip(grid.flat, captioned, strict=False):
        show_example(axes, Example(one.example.pixels_CHW, one.example.waveform_T), sample_rate_hz)
        color = GOOD if one.is_exact else BAD
        border(axes, color)
        axes.set_title(wrap(one.found or "(nothing)", width=30, lines=3), fontsize=8)
        if not one.is_exact:
            axes.set_xlabel(wrap(one.right, width=30, lines=3), fontsize=8, color=color)
    return save(figure, path)


def plot_word_attention(rows: Sequence[WordMaps], path: Path) -> Path:
    """Draw a row for each sample: the sample, then what each word of its caption looked at.

    Args:
        rows: the samples.
        path: the PNG to write.
    """
    columns = 1 + min(_MOST_WORDS, max(len(row.words) for row in rows))
    is_sound = rows[0].picture.ndim == 2
    figure = new_figure(width=1.15 * columns, height=(1.2 if is_sound else 1.5) * len(rows) + 0.4)
    figure.suptitle("Where each word of the generated caption looked", fontsize=11)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for line, row in zip(grid, rows, strict=True):
        _draw(line[0], row.picture)
        for axes in line[1 + len(row.words) :]:
            axes.axis("off")
        for axes, word, map_RC in zip(line[1:], row.words, row.maps_WRC, strict=False):
            _draw(axes, row.picture, pale=True)
            _tint(axes, map_RC, row)
            axes.set_title(word.replace("$", r"\$"), fontsize=8)
    return save(figure, path)


def _draw(axes: Any, picture: np.ndarray, *, pale: bool = False) -> None:
    if picture.ndim == 2:
        axes.imshow(picture, origin="lower", aspect="auto", cmap="gray" if pale else "magma")
    elif pale:
        # Black becomes grey, on which red can be seen.
        axes.imshow(picture.mean(0), cmap="gray", vmin=-150, vmax=255)
    else:
        show_pixels(axes, picture)
    bare(axes)


def _tint(axes: Any, map_RC: np.ndarray, row: WordMaps) -> None:
    """Lay a map over the axes' picture; cells beyond the picture are cut off."""
    height, width = row.picture.shape[-2:]
    high, wide = height / row.covered[0], width / row.covered[1]
    colored = np.zeros((*map_RC.shape, 4))
    colored[..., 0] = 0.9
    colored[..., 3] = 0.8 * map_RC / (map_RC.max() or 1.0)
    is_sound = row.picture.ndim == 2
    extent = (0, wide, 0, high) if is_sound else (0, wide, high, 0)
    options: dict[str, Any] = {"origin": "lower", "aspect": "auto"} if is_sound else {}
    axes.imshow(colored, extent=[e - 0.5 for e in extent], interpolation="nearest", **options)
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(*((-0.5, height - 0.5) if is_sound else (height - 0.5, -0.5)))
