"""Pictures side by side: samples with their prompts, originals above what came back, codes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmlight.runs.plots.canvas import bare, new_figure, save, show_pixels, wrap

_INCHES = 1.25


def plot_samples(
    pixels: Sequence[np.ndarray], path: Path, *, titles: Sequence[str] = (), columns: int = 4
) -> Path:
    """Draw pictures in rows; return the path.

    Args:
        pixels: uint8 (C, H, W) each.
        path: where.
        titles: below each; none draws none.
        columns: pictures in a row.
    """
    columns = min(columns, len(pixels))
    rows = -(-len(pixels) // columns)
    tall = _INCHES + (0.5 if titles else 0)
    figure = new_figure(width=columns * _INCHES * 1.25, height=rows * tall)
    axes = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for place, one in enumerate(axes):
        bare(one)
        one.spines[:].set_visible(False)
        if place < len(pixels):
            show_pixels(one, pixels[place], **_range(pixels[place]))
            if titles:
                one.set_xlabel(wrap(titles[place], width=22, lines=3), fontsize=7)
    return save(figure, path)


def plot_rebuilt(wanted: Sequence[np.ndarray], rebuilt: Sequence[np.ndarray], path: Path) -> Path:
    """Draw each original above what came back; return the path.

    Args:
        wanted: uint8 (C, H, W) each.
        rebuilt: as many.
        path: where.
    """
    columns = len(wanted)
    figure = new_figure(width=max(columns * _INCHES, 3), height=2 * _INCHES + 0.4)
    axes = figure.subplots(2, columns, squeeze=False)
    for name, row, pictures in (("original", 0, wanted), ("rebuilt", 1, rebuilt)):
        for column, one in enumerate(pictures):
            bare(axes[row, column])
            show_pixels(axes[row, column], one, **_range(one))
        axes[row, 0].set_ylabel(name, fontsize=9)
    return save(figure, path)


def plot_patches(patches_KCHW: np.ndarray, path: Path) -> Path:
    """Draw what each code of a codebook looks like, in one picture; return the path.

    Args:
        patches_KCHW: uint8.
        path: where.
    """
    patches = [np.pad(one, ((0, 0), (0, 1), (0, 1)), constant_values=255) for one in patches_KCHW]
    columns = max(1, round(len(patches) ** 0.5))
    patches += [np.full_like(patches[0], 255)] * (-len(patches) % columns)
    rows = [np.concatenate(patches[i : i + columns], 2) for i in range(0, len(patches), columns)]
    whole = np.concatenate(rows, 1)
    figure = new_figure(width=5, height=5 * whole.shape[1] / whole.shape[2])
    axes = figure.subplots()
    bare(axes)
    show_pixels(axes, whole, **_range(whole))
    return save(figure, path)


def _range(pixels_CHW: np.ndarray) -> dict[str, int]:
    """Return the range of grey pixels, which would else be stretched to what is there."""
    return {"vmin": 0, "vmax": 255} if len(pixels_CHW) == 1 else {}
