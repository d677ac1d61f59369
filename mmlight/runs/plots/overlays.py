"""What speaks for an answer, laid over an image or spectrogram; what the heads look at."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmlight.runs.plots.canvas import bare, new_figure, save, scaled, spread, wrap

_LEGEND = "red speaks for it, blue against it"
_MOST_OPAQUE = 0.8
_FOR, _AGAINST = (0.90, 0.10, 0.10), (0.10, 0.40, 0.95)


@dataclass(frozen=True)
class Overlay:
    """A sample and what each method says of its places.

    Attributes:
        about: the answer, with the model's confidence.
        truth: what is right, or another line about the sample; may be empty.
        picture: an image (H, W, C) of uint8, or a spectrogram (R, K), lowest band first.
        maps: by method, numbers on the picture of any size; NaN where the method says nothing.
        notes: by method, a line below its picture.
    """

    about: str
    truth: str
    picture: np.ndarray
    maps: dict[str, np.ndarray]
    notes: dict[str, str]


def plot_overlays(
    overlays: Sequence[Overlay], path: Path, *, seconds: Sequence[float] | None = None
) -> Path:
    """Draw a row per sample: the sample itself, then each method's map over it.

    Args:
        overlays: samples that were explained by the same methods.
        path: the PNG to write.
        seconds: durations of sounds, whose pictures are spectrograms; None for images.
    """
    methods = list(overlays[0].maps)
    is_sound = seconds is not None
    width, height = (2.6, 1.9) if is_sound else (1.9, 2.15)
    figure = new_figure(width=width * (1 + len(methods)), height=height * len(overlays) + 0.4)
    figure.suptitle(f"What the answer rests on: {_LEGEND}", fontsize=11)
    grid = figure.subplots(len(overlays), 1 + len(methods), squeeze=False)
    for number, (line, overlay) in enumerate(zip(grid, overlays, strict=True)):
        extent = None
        if seconds is not None:
            extent = (0.0, seconds[number], 0.0, float(overlay.picture.shape[0]))
        _draw(line[0], overlay.picture, extent=extent)
        title = "\n".join(wrap(text, width=30, lines=2) for text in (overlay.about, overlay.truth))
        line[0].set_title(title.strip(), fontsize=8)
        for axes, method in zip(line[1:], methods, strict=True):
            _draw(axes, overlay.picture, extent=extent, pale=True)
            axes.imshow(_tint(overlay.maps[method]), **_placing(overlay.picture, extent))
            axes.set_title(method.replace("_", " "), fontsize=8)
            axes.set_xlabel(overlay.notes.get(method, ""), fontsize=8)
        if extent is not None:
            line[0].set_ylabel("mel band", fontsize=8)
            line[0].set_xlabel(f"{extent[1]:.2f} s", fontsize=8)
    return save(figure, path)


def _placing(picture: np.ndarray, extent: tuple[float, float, float, float] | None) -> Any:
    if extent is not None:
        return {"extent": extent, "origin": "lower", "aspect": "auto", "interpolation": "nearest"}
    height, width = picture.shape[:2]
    return {"extent": (0, width, height, 0), "interpolation": "nearest"}


def _draw(
    axes: Any,
    picture: np.ndarray,
    *,
    extent: tuple[float, float, float, float] | None,
    pale: bool = False,
) -> None:
    placing = _placing(picture, extent)
    if extent is not None:
        low = picture.min() - (0.6 * np.ptp(picture) if pale else 0)
        axes.imshow(picture, cmap="gray" if pale else "magma", vmin=low, **placing)
    elif pale or picture.shape[2] == 1:
        # Black becomes grey, on which colours can be seen.
        axes.imshow(picture.mean(2), cmap="gray", vmin=-150 if pale else 0, vmax=255, **placing)
    else:
        axes.imshow(picture, **placing)
    bare(axes)


def _tint(map_RK: np.ndarray) -> np.ndarray:
    """Return RGBA (R, K, 4): red above zero, blue below, the more opaque the further away."""
    strength = scaled(map_RK)
    colored = np.zeros((*strength.shape, 4))
    colored[..., :3] = np.where(strength[..., None] > 0, _FOR, _AGAINST)
    colored[..., 3] = _MOST_OPAQUE * np.abs(strength)
    return colored


_MOST_LAYERS, _MOST_HEADS = 6, 8


def plot_heads(
    heads: np.ndarray, path: Path, *, picture: np.ndarray, is_sound: bool, about: str
) -> Path:
    """Draw attention maps beside the image or spectrogram that they are of.

    Of a large model, layers and heads spread over all of them.

    Args:
        heads: (layers, H, R, K), as large as the picture.
        path: the PNG to write.
        picture: an image (H, W, C) of uint8, or a spectrogram (R, K), lowest band first.
        is_sound: whether it is a spectrogram.
        about: the answer of the sample.
    """
    layers, columns = (
        spread(size, most)
        for size, most in zip(heads.shape[:2], (_MOST_LAYERS, _MOST_HEADS), strict=True)
    )
    wide, high = (1.9, 1.25) if is_sound else (1.25, 1.35)
    figure = new_figure(width=wide * (1 + len(columns)), height=high * len(layers) + 0.5)
    figure.suptitle(f"Attention of the pooled tokens: {about}", fontsize=10)
    grid = figure.subplots(len(layers), 1 + len(columns), squeeze=False)
    options: dict[str, Any] = {"origin": "lower", "aspect": "auto"} if is_sound else {}
    for line, layer in zip(grid, layers, strict=True):
        if layer == layers[0]:
            shown = picture if is_sound or picture.shape[2] > 1 else picture[..., 0]
            gray = {} if not is_sound and picture.shape[2] > 1 else {"cmap": "gray"}
            line[0].imshow(shown, **options, **gray)
            bare(line[0])
        else:
            line[0].axis("off")
        line[1].set_ylabel(f"layer {layer + 1}", fontsize=8)
        for axes, head in zip(line[1:], columns, strict=True):
            axes.imshow(heads[layer, head], cmap="viridis", **options)
            bare(axes)
            if layer == layers[0]:
                axes.set_title(f"head {head + 1}", fontsize=8)
    grid[0][0].set_title("the sample", fontsize=8)
    return save(figure, path)


def plot_token_heads(heads_NL: np.ndarray, path: Path, *, pieces: list[str], about: str) -> Path:
    """Draw how much each layer, averaged over its heads, looks at each token of a caption.

    Args:
        heads_NL: (layers, tokens).
        path: the PNG to write.
        pieces: the tokens; empty for start and end.
        about: the answer of the sample.
    """
    names = [piece.strip() or "·" for piece in pieces]
    figure = new_figure(width=1.6 + 0.32 * len(names), height=1.5 + 0.3 * len(heads_NL))
    axes: Any = figure.subplots()
    picture = axes.imshow(heads_NL, cmap="viridis", aspect="auto", vmin=0)
    figure.colorbar(picture, ax=axes, label="attention", shrink=0.8)
    axes.set_xticks(range(len(names)), [n.replace("$", r"\$") for n in names])
    axes.tick_params(axis="x", rotation=60, labelsize=8)
    axes.set_yticks(range(len(heads_NL)), [f"layer {n + 1}" for n in range(len(heads_NL))])
    axes.tick_params(axis="y", labelsize=8)
    axes.set_title(f"Attention of the pooled tokens: {about}", fontsize=9, loc="left")
    return save(figure, path)
