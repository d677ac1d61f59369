"""COCO's scores of detections: average precision over overlaps and classes.

Shapes: S samples of the whole set; N boxes of one sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from mmlight.errors import UserError

_MOST_BOXES = (1, 10, 100)


@dataclass(frozen=True)
class BoxList:
    """Boxes of one image, found or annotated.

    Attributes:
        xyxy_N4: float32 corners (left, top, right, bottom) in pixels of the image as stored.
        label_N: int64 class numbers.
        score_N: float32 from 0 to 1, best first; None for annotated boxes.
    """

    xyxy_N4: np.ndarray
    label_N: np.ndarray
    score_N: np.ndarray | None = None


@dataclass(frozen=True)
class BoxEvaluation:
    """What a detector found in every image of a set, and what is there.

    Attributes:
        stage: `val` or `test`.
        samples_S: int64, ascending, the number of each sample in its data set.
        keys: ``shard-name/sample-key`` of each sample.
        found: the detections of each sample.
        wanted: its annotated boxes; None where nobody annotated it.
        sizes: height and width of each image as stored, pixels.
        class_names: names of the classes.
        precision_KR: precision of each class at an overlap of 0.5 and the recalls 0, 0.01, ... 1;
            NaN for a class that does not occur; None before it is scored.
    """

    stage: str
    samples_S: np.ndarray
    keys: list[str]
    found: list[BoxList]
    wanted: list[BoxList | None]
    sizes: list[tuple[int, int]]
    class_names: list[str] = field(default_factory=list)
    precision_KR: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Check that rows line up; a mismatch is a bug of the caller."""
        size = len(self.samples_S)
        assert size == len(self.keys) == len(self.found) == len(self.wanted) == len(self.sizes)

    @property
    def num_boxes_K(self) -> np.ndarray:
        """Annotated boxes of each class."""
        labels = [boxes.label_N for boxes in self.wanted if boxes is not None]
        return np.bincount(
            np.concatenate(labels) if labels else np.zeros(0, np.int64),
            minlength=len(self.class_names),
        )


@dataclass(frozen=True)
class BoxScores:
    """COCO's scores of a set.

    Attributes:
        values: by name, see `box_scores`.
        precision_KR: see `BoxEvaluation`.
    """

    values: dict[str, float]
    precision_KR: np.ndarray


def box_scores(
    found: Sequence[BoxList], wanted: Sequence[BoxList], *, class_names: Sequence[str]
) -> BoxScores:
    """Return COCO's average precision, in all and by class, of at most 100 boxes per image.

    - ``map``: mean over classes and over overlaps from 0.50 to 0.95;
    - ``ap50``, ``ap75``: at one overlap;
    - ``map_small``, ``map_medium``, ``map_large``: of objects below 32², below 96², above
      (pixels of the image as stored), where there are such;
    - ``recall``: mean over classes and overlaps;
    - ``class/NAME/ap`` and ``class/NAME/ap50`` for each class that occurs.

    Args:
        found: the detections of each image.
        wanted: the annotated boxes of the same images.
        class_names: names of the classes.

    Raises:
        UserError: the packages that count are not installed.
    """
    metric = _metric()
    for one, other in zip(found, wanted, strict=True):
        assert one.score_N is not None
        metric.update(
            [
                {
                    "boxes": torch.from_numpy(one.xyxy_N4).reshape(-1, 4),
                    "labels": torch.from_numpy(one.label_N),
                    "scores": torch.from_numpy(one.score_N),
                }
            ],
            [
                {
                    "boxes": torch.from_numpy(other.xyxy_N4).reshape(-1, 4),
                    "labels": torch.from_numpy(other.label_N),
                }
            ],
        )
    result = metric.compute()
    scores = {
        "map": float(result["map"]),
        "ap50": float(result["map_50"]),
        "ap75": float(result["map_75"]),
        "recall": float(result["mar_100"]),
    }
    scores |= {
        f"map_{size}": float(result[f"map_{size}"])
        for size in ("small", "medium", "large")
        if float(result[f"map_{size}"]) >= 0
    }
    # Overlaps 0.50, 0.55, ... 0.95; recalls; classes; areas; most boxes. -1: a class that does not
    # occur.
    precision = np.asarray(result["precision"])[:, :, :, 0, -1]
    precision_KR = np.full((len(class_names), precision.shape[1]), np.nan)
    for place, number in enumerate(np.atleast_1d(result["classes"]).tolist()):
        if (precision[:, :, place] < 0).all():
            continue  # found, but never there
        name = class_names[number]
        scores[f"class/{name}/ap"] = float(precision[:, :, place].mean())
        scores[f"class/{name}/ap50"] = float(precision[0, :, place].mean())
        precision_KR[number] = precision[0, :, place]
    return BoxScores(scores, precision_KR)


def check_counter() -> None:
    """Raise UserError where the packages that count are missing: now, not after an epoch."""
    _metric()


def _metric() -> Any:
    try:
        import faster_coco_eval  # noqa: F401
        from torchmetrics.detection import MeanAveragePrecision

        metric = MeanAveragePrecision(
            iou_type="bbox",
            extended_summary=True,
            backend="faster_coco_eval",
            max_detection_thresholds=list(_MOST_BOXES),
        )
    except ImportError as error:
        raise UserError(
            "detection scores need faster-coco-eval: pip install 'mmlight[detection]'"
        ) from error
    metric.warn_on_many_detections = False  # COCO's scores are of the 100 best
    return metric
