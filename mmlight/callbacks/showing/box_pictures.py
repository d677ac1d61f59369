"""Pictures of what a detector found."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mmlight.metrics.boxes import BoxEvaluation
from mmlight.runs.plots.detections import BoxPicture, plot_detections, plot_precision_recall


def draw_boxes(
    evaluation: BoxEvaluation, folder: Path, *, pixels: Mapping[int, np.ndarray], most: int
) -> list[Path]:
    """Draw detections on some images, and precision against recall; return the files.

    Args:
        evaluation: what was found in a whole set.
        folder: where the files go; their names begin with the stage.
        pixels: uint8 (C, H, W) without padding, of some samples by number.
        most: how many images are drawn.
    """
    stage = evaluation.stage
    rows = [row for row, number in enumerate(evaluation.samples_S.tolist()) if number in pixels]
    spread = np.linspace(0, len(rows) - 1, min(len(rows), most), dtype=int).tolist() if rows else []
    pictures = [_picture(evaluation, rows[place], pixels) for place in spread]
    drawn = []
    if pictures:
        path = folder / f"{stage}_detections.png"
        drawn.append(plot_detections(pictures, path, class_names=evaluation.class_names))
    if evaluation.precision_KR is not None and np.isfinite(evaluation.precision_KR).any():
        drawn.append(
            plot_precision_recall(
                evaluation.precision_KR,
                folder / f"{stage}_precision_recall.png",
                class_names=evaluation.class_names,
                num_boxes_K=evaluation.num_boxes_K,
            )
        )
    return drawn


def _picture(evaluation: BoxEvaluation, row: int, pixels: Mapping[int, np.ndarray]) -> BoxPicture:
    found, wanted = evaluation.found[row], evaluation.wanted[row]
    assert found.score_N is not None
    height, width = evaluation.sizes[row]
    return BoxPicture(
        pixels_CHW=pixels[int(evaluation.samples_S[row])],
        height=height,
        width=width,
        key=evaluation.keys[row],
        found_N4=found.xyxy_N4,
        found_label_N=found.label_N,
        found_score_N=found.score_N,
        wanted_M4=None if wanted is None else wanted.xyxy_N4,
        wanted_label_M=None if wanted is None else wanted.label_N,
    )
