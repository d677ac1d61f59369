"""Captions whose tokens are coloured by how much they speak for an answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmlight.runs.plots.canvas import new_figure, save, scaled, wrap

_COLUMNS = 96  # characters of a line of tokens
_MARGIN = 24  # characters for the method's name
_SIZE = 9  # points
_WIDE = 0.602 * _SIZE / 72  # inches per character of DejaVu Sans Mono
_HIGH = 0.2  # inches per line


@dataclass(frozen=True)
class ColoredText:
    """A caption and what each method says of its tokens.

    Attributes:
        about: a line about the caption: the answer, the model's confidence, what is right.
        pieces: its tokens, each with the white space in front of it; empty for start and end.
        values: by method, a number per token; NaN where the method says nothing.
        notes: by method, a line below its name.
    """

    about: str
    pieces: list[str]
    values: dict[str, np.ndarray]
    notes: dict[str, str]


@dataclass(frozen=True)
class _Box:
    line: int
    column: int
    text: str
    value: float


def plot_colored_texts(texts: Sequence[ColoredText], path: Path) -> Path:
    """Draw each caption once per method, with its tokens as coloured boxes.

    Args:
        texts: captions that were explained by the same methods.
        path: the PNG to write.
    """
    from matplotlib.patches import Rectangle

    laid = [{m: _lay_out(t.pieces, v) for m, v in t.values.items()} for t in texts]
    lines = 2 + sum(
        2 + sum(max(2, _num_lines(boxes)) for boxes in methods.values()) for methods in laid
    )
    used = [box.column + len(box.text) for m in laid for boxes in m.values() for box in boxes]
    columns = _MARGIN + max(48, *used) + 2
    figure = new_figure(width=columns * _WIDE, height=lines * _HIGH)
    figure.set_layout_engine("none")  # places are set by hand
    axes: Any = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, columns), ylim=(lines, 0))
    axes.axis("off")

    def write(column: float, line: float, text: str, **more: Any) -> None:
        options = {"family": "DejaVu Sans Mono", "fontsize": _SIZE, "va": "center"} | more
        axes.text(column, line + 0.5, text.replace("$", r"\$"), **options)

    write(1, 0, "What the answer rests on: red speaks for it, blue against it", weight="bold")
    at = 2
    for text, methods in zip(texts, laid, strict=True):
        write(1, at, wrap(text.about, width=columns - 2, lines=1), weight="bold")
        at += 1
        for method, boxes in methods.items():
            write(1, at, method.replace("_", " "), color="#444444")
            write(1, at + 1, text.notes.get(method, ""), color="#777777", fontsize=_SIZE - 1)
            for box in boxes:
                place = (_MARGIN + box.column, at + box.line + 0.06)
                color = _color(box.value)
                axes.add_patch(Rectangle(place, len(box.text), 0.88, color=color, linewidth=0))
                write(_MARGIN + box.column, at + box.line, box.text)
            at += max(2, _num_lines(boxes))
        at += 1
    return save(figure, path)


def _num_lines(boxes: list[_Box]) -> int:
    return 1 + max((box.line for box in boxes), default=0)


def _lay_out(pieces: list[str], values_L: np.ndarray) -> list[_Box]:
    """Break tokens into lines, at white space where there is some; scale values to [-1, 1]."""
    words: list[list[tuple[str, float]]] = []
    for piece, value in zip(pieces, scaled(values_L).tolist(), strict=True):
        token = " ".join(piece.split())
        if not token:
            continue
        if not words or piece[0].isspace():
            words.append([])
        words[-1].append((token, value))
    boxes: list[_Box] = []
    line = column = 0
    for word in words:
        length = sum(len(token) for token, _ in word)
        if column and column + length > _COLUMNS:
            line, column = line + 1, 0
        for token, value in word:
            if column and column + len(token) > _COLUMNS:  # a word longer than a line
                line, column = line + 1, 0
            boxes.append(_Box(line, column, token[:_COLUMNS], value))
            column += len(boxes[-1].text)
        column += 1
    return boxes


def _color(value: float) -> Any:
    from matplotlib import colormaps

    # Not up to the ends of the scale, on which black letters could not be read.
    return colormaps["RdBu_r"](0.5 + 0.3 * value)
