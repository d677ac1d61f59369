"""Pictures that tasks draw of an evaluation: of classes and of boxes, and what they are shown."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from mmlight.metrics.boxes import BoxEvaluation
from mmlight.metrics.calibration import calibration_error, reliability_bins
from mmlight.metrics.labelled import LabelledEvaluation, confusion_matrix
from mmlight.runs.plots.canvas import spread
from mmlight.runs.plots.detections import BoxPicture, plot_detections, plot_precision_recall
from mmlight.runs.plots.examples import Example
from mmlight.runs.plots.labelled import ReliabilityPanel, plot_confusion, plot_reliability


@dataclass(frozen=True)
class ShownSamples:
    """Some samples of an evaluation, to be looked at, and how many of them a picture shows.

    Attributes:
        kept: what they look and sound like, by number in their data set and by modality.
        num_queries: rows of a picture of examples.
        num_found: retrieved examples of a row.
        projection: how a joint space becomes flat.
        num_projected: samples in the picture of a joint space.
        class_names: names of the data's classes, where it has them.
        sample_rate_hz: of sounds, where there are any.
    """

    kept: Mapping[int, Mapping[str, Example]]
    num_queries: int = 4
    num_found: int = 5
    projection: Literal["tsne", "pca"] = "tsne"
    num_projected: int = 200
    class_names: list[str] | None = None
    sample_rate_hz: int | None = None


def draw_labelled(evaluation: LabelledEvaluation, folder: Path) -> list[Path]:
    """Draw a classifier's confusion matrix and reliability; return the files.

    Args:
        evaluation: answers of a whole set; with several labels per sample nothing is drawn.
        folder: where the files go; their names begin with the stage.
    """
    if evaluation.labels_S is None or not evaluation.is_labelled_S.any():
        return []
    bins = reliability_bins(evaluation.logits_SK, evaluation.labels_S)
    return [
        plot_confusion(
            confusion_matrix(evaluation),
            folder / f"{evaluation.stage}_confusion.png",
            class_names=evaluation.class_names,
        ),
        plot_reliability(
            [
                ReliabilityPanel(
                    bins.count_M, bins.confidence_M, bins.accuracy_M, calibration_error(bins)
                )
            ],
            folder / f"{evaluation.stage}_reliability.png",
        ),
    ]


def draw_boxes(evaluation: BoxEvaluation, folder: Path, samples: ShownSamples) -> list[Path]:
    """Draw detections on some images, and precision against recall; return the files.

    Args:
        evaluation: what was found in a whole set.
        folder: where the files go; their names begin with the stage.
        samples: some of them.
    """
    stage, most = evaluation.stage, samples.num_queries
    kept = {number: of_sample.get("image") for number, of_sample in samples.kept.items()}
    pixels = {n: one.pixels_CHW for n, one in kept.items() if one and one.pixels_CHW is not None}
    rows = [row for row, number in enumerate(evaluation.samples_S.tolist()) if number in pixels]
    pictures = [_picture(evaluation, rows[place], pixels) for place in spread(len(rows), most)]
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
