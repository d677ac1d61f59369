"""What the pooled tokens of a transformer look at, layer by layer and head by head."""

from pathlib import Path
from typing import Any

import numpy as np

from mmlight.runs.plots.canvas import bare, new_figure, save

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
        _spread(size, most)
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


def _spread(size: int, most: int) -> list[int]:
    return np.unique(np.linspace(0, size - 1, min(size, most), dtype=int)).tolist()
