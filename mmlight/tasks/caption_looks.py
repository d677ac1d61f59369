"""What each word of a generated caption looked at, for pictures.

Shapes: K samples that are shown, L places, M tokens of the image or sound, W words.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmlight.encoders.canvas import Canvas
from mmlight.encoders.encoder import Encoder


@dataclass(frozen=True)
class Grid:
    """How the tokens of an image or sound lie on it.

    Attributes:
        prefix: tokens before the others that stand for no place.
        rows: rows of the grid.
        columns: columns of the grid; tokens follow one another row by row.
        covered: how much of its width and height the picture has of what the grid covers.
    """

    prefix: int
    rows: int
    columns: int
    covered: tuple[float, float] = (1.0, 1.0)


@dataclass(frozen=True)
class Look:
    """A sample and its caption, word by word.

    Attributes:
        picture: an image (C, H, W) of uint8, or a spectrogram (R, K), lowest band first.
        words: of the caption.
        maps_WRC: float, how much each of them looked at each cell of the picture.
        covered: see `Grid`.
    """

    picture: np.ndarray
    words: list[str]
    maps_WRC: np.ndarray
    covered: tuple[float, float]


def grid_of(encoder: Encoder, canvas: Canvas, num_tokens: int) -> Grid | None:
    """Return how an encoder's tokens lie on what it read; None where they are no grid.

    Args:
        encoder: the image or audio tower's.
        canvas: what it read.
        num_tokens: M, of the tokens that it returned.
    """
    covered = (1.0, canvas.columns / canvas.covered_columns)
    known = encoder.token_grid(canvas)
    if known is not None:
        prefix = num_tokens - known.rows * known.columns
        return Grid(prefix, known.rows, known.columns, covered) if prefix >= 0 else None
    # A CNN's last map has the proportions of what it read.
    rows, columns = canvas.covered
    high = max(1, round((num_tokens * rows / columns) ** 0.5))
    return Grid(0, high, num_tokens // high, covered) if num_tokens % high == 0 else None


def watched_weights(
    watch: AbstractContextManager[list[Tensor]], say: Callable[[], Any], *, num_seen: int
) -> Tensor:
    """Return how much each place of captions looked at each token, (K, L, M).

    The mean over heads and over those layers that look, each place's weights adding up to 1.

    Args:
        watch: collects the weights of layers, (K, H, places, seen) each; what is looked at comes
            first of what is seen.
        say: shows the captions to the decoder.
        num_seen: M.
    """
    with torch.no_grad(), watch as seen:
        say()
    mean_KLM = torch.stack([weights[..., :num_seen].float().mean(1) for weights in seen]).mean(0)
    return mean_KLM / mean_KLM.sum(-1, keepdim=True).clamp(min=1e-12)


def word_maps(
    weights_LM: np.ndarray, tokens: Sequence[int], *, grid: Grid, text: Callable[[list[int]], str]
) -> tuple[list[str], np.ndarray]:
    """Return the words of a caption and what each looked at (W, rows, columns).

    Args:
        weights_LM: of the places at which the tokens were said.
        tokens: of the caption.
        grid: where the M tokens lie.
        text: makes a text of tokens.
    """
    words: list[str] = []
    of_word: list[list[int]] = []
    for place in range(len(tokens)):
        so_far = text(list(tokens[: place + 1])).split()
        if len(so_far) > len(words):
            of_word.append([])
        words = so_far
        if of_word:
            of_word[-1].append(place)
    maps = [weights_LM[places].mean(0)[grid.prefix :] for places in of_word]
    shaped = np.array(maps, dtype=np.float64).reshape(len(maps), grid.rows, grid.columns)
    return words[: len(maps)], shaped
