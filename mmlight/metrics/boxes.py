"""COCO's scores of detections: average precision over overlaps and classes.

Shapes: S samples of the whole set; N boxes of one sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmlight.errors import UserError

SCORES = ("map", "ap50", "ap75", "map_small", "map_medium", "map_large", "recall")
_MOST_BOXES = 100
# In float64: a recall of 0.29 is not reached at 29 of 100 objects when the threshold is float32's.
_RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class BoxList:
    """Boxes of one image, found or annotated.

    Attributes:
        xyxy_N4: corners (left, top, right, bottom) in pixels of the image as stored: float32 where
            found, float64 as annotated.
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
        all_labels = np.concatenate([np.zeros(0, np.int64), *labels])
        return np.bincount(all_labels, minlength=len(self.class_names))


def box_scores(
    found: Sequence[BoxList], wanted: Sequence[BoxList], *, class_names: Sequence[str]
) -> tuple[dict[str, float], np.ndarray]:
    """Return COCO's average precision by name, and `BoxEvaluation.precision_KR`.

    The same as pycocotools, of at most 100 boxes per image: images count in the order given, where
    scores are equal; no object is a crowd, and its area is that of its box.

    - ``map``: mean over classes and over overlaps from 0.50 to 0.95;
    - ``ap50``, ``ap75``: at one overlap;
    - ``map_small``, ``map_medium``, ``map_large``: of objects up to 32², up to 96², from there on
      (pixels of the image as stored);
    - ``recall``: mean over classes and overlaps;
    - ``class/NAME/ap`` and ``class/NAME/ap50`` for each class.

    Of what does not occur (a class, a size, any object at all) there is no score.

    Args:
        found: the detections of each image.
        wanted: the annotated boxes of the same images.
        class_names: names of the classes.

    Raises:
        UserError: the package that counts is not installed.
    """
    counter = check_counter()
    # Only classes that are there: what is found of others counts for nothing, and takes its time.
    classes = np.unique([label for boxes in wanted for label in boxes.label_N.tolist()]).astype(int)
    precision_KR = np.full((len(class_names), len(_RECALLS)), np.nan)
    if not len(classes):
        return {}, precision_KR
    evaluation = counter.COCOeval_faster(
        _annotations(counter, wanted, classes), _annotations(counter, found, classes), "bbox"
    )
    evaluation.params.maxDets = [_MOST_BOXES]
    evaluation.params.recThrs = _RECALLS
    evaluation.evaluate()
    evaluation.accumulate()
    # Overlaps 0.50, 0.55, ... 0.95; recalls; classes; sizes (all, small, medium, large). -1: there
    # is no object of this class and size.
    precision_TRKA = np.asarray(evaluation.eval["precision"])[..., 0]
    recall_TKA = np.asarray(evaluation.eval["recall"])[..., 0]
    means = {
        "map": precision_TRKA[..., 0],
        "ap50": precision_TRKA[0, ..., 0],
        "ap75": precision_TRKA[5, ..., 0],
        "recall": recall_TKA[..., 0],
        "map_small": precision_TRKA[..., 1],
        "map_medium": precision_TRKA[..., 2],
        "map_large": precision_TRKA[..., 3],
    }
    for place, number in enumerate(classes.tolist()):
        of_class = precision_TRKA[:, :, place, 0]
        means[f"class/{class_names[number]}/ap"] = of_class
        means[f"class/{class_names[number]}/ap50"] = of_class[0]
        precision_KR[number] = of_class[0]
    values = {name: float(x[x > -1].mean()) for name, x in means.items() if (x > -1).any()}
    return values, precision_KR


def check_counter() -> Any:
    """Return the package that counts; where it is missing, say so now, not after an epoch.

    Raises:
        UserError: it is not installed.
    """
    try:
        import faster_coco_eval
    except ImportError as error:
        raise UserError(
            "detection scores need faster-coco-eval: pip install 'mmlight[detection]'"
        ) from error
    return faster_coco_eval


def _annotations(counter: Any, boxes: Sequence[BoxList], classes: np.ndarray) -> Any:
    rows: list[dict[str, Any]] = []
    for image, one in enumerate(boxes):
        # As a script reads a file of results: float32 would move overlaps over their thresholds.
        xyxy_N4 = one.xyxy_N4.astype(np.float64).reshape(-1, 4)
        xywh_N4 = np.concatenate([xyxy_N4[:, :2], xyxy_N4[:, 2:] - xyxy_N4[:, :2]], 1)
        score_N = np.ones(len(xywh_N4)) if one.score_N is None else one.score_N
        for place in np.flatnonzero(np.isin(one.label_N, classes)).tolist():
            rows.append(
                {
                    "id": len(rows) + 1,  # 0 would be read as "no match"
                    "image_id": image,
                    "category_id": int(one.label_N[place]),
                    "bbox": xywh_N4[place].tolist(),
                    "area": float(xywh_N4[place, 2] * xywh_N4[place, 3]),
                    "score": float(score_N[place]),
                    "iscrowd": 0,
                }
            )
    dataset = counter.COCO()
    dataset.dataset = {
        "images": [{"id": image} for image in range(len(boxes))],
        "annotations": rows,
        "categories": [{"id": number, "name": str(number)} for number in classes.tolist()],
    }
    dataset.createIndex()
    return dataset
