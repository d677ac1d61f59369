"""Detections: boxes on the pictures they were found in, and precision against recall by class."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmlight.runs.plots.canvas import COLORS, bare, new_figure, save, show_pixels, style

_LEAST_SCORE = 0.5  # of a box that is drawn
_SHOWN_KEY = 40  # characters


@dataclass(frozen=True)
class BoxPicture:
    """An image with what was found in it and what is there.

    Attributes:
        pixels_CHW: uint8, without padding.
        height: of the image as stored, pixels; the boxes are in these.
        width: of the image as stored, pixels.
        key: the sample's key.
        found_N4: corners (left, top, right, bottom) of the detections.
        found_label_N: their class numbers.
        found_score_N: their scores.
        wanted_M4: corners of the annotated boxes; None where nobody annotated it.
        wanted_label_M: their class numbers.
    """

    pixels_CHW: np.ndarray
    height: int
    width: int
    key: str
    found_N4: np.ndarray
    found_label_N: np.ndarray
    found_score_N: np.ndarray
    wanted_M4: np.ndarray | None = None
    wanted_label_M: np.ndarray | None = None


def plot_detections(
    pictures: Sequence[BoxPicture], path: Path, *, class_names: Sequence[str]
) -> Path:
    """Draw found boxes (with their scores, from 0.5 on) beside annotated ones, a row per image.

    Args:
        pictures: the images.
        path: the PNG to write.
        class_names: names of the classes.
    """
    shape = max(p.height / p.width for p in pictures)
    figure = new_figure(width=11, height=5.2 * shape * len(pictures) + 0.7)
    grid = figure.subplots(len(pictures), 2, squeeze=False)
    seen: set[int] = set()
    for line, picture in zip(grid, pictures, strict=True):
        shown_N = picture.found_score_N >= _LEAST_SCORE
        _show(line[0], picture)
        _draw(
            line[0],
            picture.found_N4[shown_N],
            picture.found_label_N[shown_N],
            scores_N=picture.found_score_N[shown_N],
        )
        line[0].set_title(
            f"found: {int(shown_N.sum())} with a score of {_LEAST_SCORE} or more",
            fontsize=9,
            loc="left",
        )
        seen |= set(picture.found_label_N[shown_N].tolist())
        _show(line[1], picture)
        if picture.wanted_M4 is None or picture.wanted_label_M is None:
            line[1].set_title("not annotated", fontsize=9, loc="left")
        else:
            _draw(line[1], picture.wanted_M4, picture.wanted_label_M)
            line[1].set_title(f"annotated: {len(picture.wanted_M4)}", fontsize=9, loc="left")
            seen |= set(picture.wanted_label_M.tolist())
        line[1].set_xlabel(picture.key[-_SHOWN_KEY:], fontsize=8)
    _legend(figure, sorted(seen), class_names)
    return save(figure, path)


def plot_precision_recall(
    precision_KR: np.ndarray, path: Path, *, class_names: Sequence[str], num_boxes_K: np.ndarray
) -> Path:
    """Draw precision against recall at an overlap of 0.5, a line per class.

    Args:
        precision_KR: at the recalls 0, 0.01, ... 1, as COCO interpolates it; NaN for a class that
            does not occur.
        path: the PNG to write.
        class_names: K names.
        num_boxes_K: annotated boxes of each class.
    """
    figure = new_figure(width=6.4, height=4.6)
    axes: Any = figure.subplots()
    recall_R = 100 * np.linspace(0, 1, precision_KR.shape[1])
    known = [k for k in range(len(precision_KR)) if np.isfinite(precision_KR[k]).all()]
    for place, k in enumerate(known):
        average = 100 * float(precision_KR[k].mean())
        axes.plot(
            recall_R,
            100 * precision_KR[k],
            color=COLORS[place % len(COLORS)],
            label=f"{class_names[k]}: AP50 {average:.1f} % of {int(num_boxes_K[k]):,}",
        )
    style(axes)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 102)
    axes.set_xlabel("recall (%)", fontsize=9)
    axes.set_ylabel("precision (%)", fontsize=9)
    axes.legend(fontsize=8, frameon=False, loc="lower left")
    return save(figure, path)


def _show(axes: Any, picture: BoxPicture) -> None:
    show_pixels(axes, picture.pixels_CHW, extent=(0, picture.width, picture.height, 0))
    bare(axes)


def _draw(
    axes: Any, xyxy_N4: np.ndarray, label_N: np.ndarray, *, scores_N: np.ndarray | None = None
) -> None:
    from matplotlib.patches import Rectangle

    for number, (left, top, right, bottom) in enumerate(xyxy_N4.tolist()):
        color = COLORS[int(label_N[number]) % len(COLORS)]
        axes.add_patch(
            Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=color, lw=1.4)
        )
        if scores_N is not None:
            axes.text(
                left,
                top,
                f"{scores_N[number]:.2f}",
                fontsize=8,
                color="white",
                va="bottom",
                bbox={"facecolor": color, "edgecolor": "none", "pad": 0.8},
                clip_on=True,
            )


def _legend(figure: Any, classes: Sequence[int], class_names: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor="none", edgecolor=COLORS[k % len(COLORS)], label=class_names[k])
        for k in classes
    ]
    if handles:
        figure.legend(
            handles=handles, loc="outside upper right", ncols=6, fontsize=9, frameon=False
        )
