"""Detection: boxes of objects in images, by a dense head or by queries.

Shapes as in `mmlight.batch`: B samples, G boxes; Q candidates, K classes.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import batched_nms

from mmlight.batch import Batch, Boxes, Images
from mmlight.class_names import shown_names
from mmlight.errors import UserError
from mmlight.heads.box_head import BoxHead, Candidates
from mmlight.heads.dense_boxes import DenseBoxes
from mmlight.metrics.boxes import SCORES, BoxEvaluation, BoxList, box_scores, check_counter
from mmlight.objectives.box_match import BoxMatchLoss
from mmlight.objectives.box_objective import BoxObjective
from mmlight.objectives.dense_boxes import DenseBoxLoss
from mmlight.tasks.evaluation import Column, Kept, Rows, Scored, Stage, Table
from mmlight.tasks.graph import Graph
from mmlight.tasks.pictures import ShownSamples, draw_boxes
from mmlight.tasks.task import Task
from mmlight.tasks.tower import Towers

# Candidates of an image that enter the removal of overlaps.
_MOST_CANDIDATES = 1000
_OBJECTIVES: dict[str, Callable[[], BoxObjective]] = {"dense": DenseBoxLoss, "query": BoxMatchLoss}


class Detection(Task):
    """Finds the objects in an image: their boxes, classes and scores.

    Args:
        towers: the image encoder, which must have feature maps.
        head: `mmlight.heads.dense_boxes.DenseBoxes` learns from little data;
            `mmlight.heads.box_query.BoxQuery` is of the DETR family.
        objective: the head's loss, `mmlight.objectives.dense_boxes.DenseBoxLoss` or
            `mmlight.objectives.box_match.BoxMatchLoss`; None takes that of the head.
        least_score: detections below it are dropped.
        nms_iou: of two boxes of a class that overlap by more, the worse is dropped; None takes 0.6
            for a dense head. Queries have no such duplicates to drop.
        max_boxes: most detections of an image.
        settings: of every task, see `mmlight.tasks.task.Task`.

    Raises:
        UserError: settings that contradict each other or do not fit the data.
    """

    targets = ("boxes",)

    def __init__(
        self,
        *,
        towers: Towers,
        head: Callable[[], BoxHead] = DenseBoxes,
        objective: Callable[[], BoxObjective] | None = None,
        least_score: float = 0.05,
        nms_iou: float | None = None,
        max_boxes: int = 100,
        **settings: Any,
    ) -> None:
        super().__init__(towers=towers, **settings)
        towers.check_only("image", task="detection")
        if not 0 <= least_score < 1:
            raise UserError(f"model.least_score must be in [0, 1), not {least_score}")
        if nms_iou is not None and not 0 < nms_iou <= 1:
            raise UserError(f"model.nms_iou must be in (0, 1], not {nms_iou}")
        if max_boxes < 1:
            raise UserError(f"model.max_boxes must be 1 or more, not {max_boxes}")
        self._make_head = head
        self._make_objective = objective
        self.least_score = least_score
        self.nms_iou = nms_iou
        self.max_boxes = max_boxes

    @property
    def class_names(self) -> list[str]:
        """The data's names of the classes."""
        return list((self.preprocessing or {}).get("class_names") or [])

    def build(self) -> None:
        """Create tower, head and objective."""
        if not self.class_names:
            raise UserError(
                "data.class_names is not set; detection needs it: a file with one name per line"
            )
        image = (self.preprocessing or {}).get("image")
        if image is not None and image.get("eval_crop") != "fit":
            raise UserError(
                f"data.image.eval_crop is {image.get('eval_crop')}; detection needs fit, with "
                "train_crop: fit or random_fit, so that boxes can be told in the image's own pixels"
            )
        self.build_towers()
        specs = self.tower("image").encoder.map_specs()
        self.head = self._make_head()
        self.head.build(
            in_dims=[spec.channels for spec in specs],
            in_strides=[spec.stride for spec in specs],
            num_classes=len(self.class_names),
        )
        self.objective = (self._make_objective or _OBJECTIVES[self.head.kind])()
        if self.objective.kind != self.head.kind:
            raise UserError(
                f"model.objective: {type(self.objective).__name__} is for heads of kind "
                f"{self.objective.kind}, but {type(self.head).__name__} is of kind "
                f"{self.head.kind}; leave it out to take what fits"
            )
        if self.nms_iou is not None and not self.head.needs_nms:
            raise UserError(
                f"model.nms_iou has no effect with {type(self.head).__name__}, which finds each "
                "object once; leave it out"
            )

    def setup(self, stage: str) -> None:
        """Refuse a missing package before it is needed."""
        super().setup(stage)
        if stage != "predict":
            check_counter()

    def has_unused_parameters(self) -> bool:
        """Say yes: parts of a tower are left out (its pooling, stages behind the last map)."""
        return True

    def detect(self, images: Images, boxes: Boxes | None = None) -> Any:
        """Return the head's outputs, with gradients.

        Args:
            images: pixels and their view.
            boxes: the objects, in training.
        """
        maps = self.tower("image").encoder.feature_maps(images, strides=self.head.uses)
        return self.head(
            maps,
            area_B2=images.viewed().area_B2,
            canvas=_canvas(images),
            boxes=boxes,
        )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss over the global batch."""
        return self.log_loss(self._loss(batch, self.detect(_images(batch), _boxes(batch))))

    def score_names(self) -> set[str]:
        """Return the names of all scores."""
        of_classes = (f"class/{name}/{ap}" for name in self.class_names for ap in ("ap", "ap50"))
        return {"loss", *SCORES, *of_classes}

    def keep(self, batch: Batch) -> Kept:
        """Keep what is found and what is there, in pixels of the images as stored."""
        images = _images(batch)
        outputs = self.detect(images)
        columns: dict[str, Column] = {
            "key": batch.keys,
            "found": self.found(images, outputs),
            "wanted": annotated_boxes(batch),
            "size": [(int(h), int(w)) for h, w in images.viewed().original_B2.tolist()],
        }
        loss = (self._loss(batch, outputs).value, self._counted(batch))
        return Kept({"samples": Rows(columns)}, loss=loss)

    def score(self, tables: dict[str, Table], *, stage: Stage) -> Scored:
        """Score the detections of the whole set."""
        table, captions = tables["samples"], shown_names(self.class_names)
        known = [row for row, boxes in enumerate(table["wanted"]) if boxes is not None]
        values, precision_KR = box_scores(
            [table["found"][row] for row in known],
            [table["wanted"][row] for row in known],
            class_names=captions,
        )
        evaluation = BoxEvaluation(
            stage=stage,
            samples_S=table.sample_N.numpy(),
            keys=table["key"],
            found=table["found"],
            wanted=table["wanted"],
            sizes=table["size"],
            class_names=captions,
            precision_KR=precision_KR,
        )
        return Scored(values, evaluation)

    def answers(self, tables: dict[str, Table]) -> tuple[list[Any], list[Any]]:
        """Return detections and annotated boxes: ``boxes``, ``labels`` and ``scores`` of each."""
        table = tables["samples"]
        pairs = zip(table["found"], table["wanted"], strict=True)
        known = [(found, wanted) for found, wanted in pairs if wanted is not None]
        return [_as_tensors(found) for found, _ in known], [_as_tensors(w) for _, w in known]

    def example_answers(self) -> tuple[list[Any], list[Any]]:
        """Return one image with one box."""
        box_14, label_1 = np.array([[0.0, 0.0, 2.0, 2.0]]), np.zeros(1, np.int64)
        found, wanted = BoxList(box_14, label_1, np.ones(1)), BoxList(box_14, label_1)
        return [_as_tensors(found)], [_as_tensors(wanted)]

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """Return for each image its boxes in pixels of the image as stored, best first."""
        found = self.found(_images(batch), self.detect(_images(batch)))
        rows = []
        for row in batch.valid_B.nonzero()[:, 0].tolist():
            boxes = found[row]
            assert boxes.score_N is not None
            rows.append(
                {
                    "key": batch.keys[row],
                    "boxes": boxes.xyxy_N4.tolist(),
                    "labels": [self.class_names[k] for k in boxes.label_N.tolist()],
                    "classes": boxes.label_N.tolist(),
                    "scores": boxes.score_N.tolist(),
                }
            )
        return rows

    def graphs(self) -> list[Graph]:
        """Return the model from pixels to all boxes and their scores."""

        def boxes(batch: Batch) -> tuple[Tensor, ...]:
            return self.head.scored_boxes(self.detect(_images(batch)))

        meanings = {
            "boxes": "float32 corners (left, top, right, bottom) in pixels of the padded image",
            "class_scores": "float32 from 0 to 1, of each box for each class; low ones are to be "
            "dropped",
        }
        return [
            Graph(
                self,
                name="model",
                function=boxes,
                inputs=("pixels", "area"),
                outputs=meanings,
                unordered=self.head.kind == "query",
            )
        ]

    def draw(self, evaluation: Any, folder: Path, samples: ShownSamples) -> list[Path]:
        """Draw boxes on some images, and precision against recall."""
        return draw_boxes(evaluation, folder, samples)

    def found(self, images: Images, outputs: Any) -> list[BoxList]:
        """Return the detections of each image, in pixels of the image as stored, best first.

        Args:
            images: what was looked at.
            outputs: what the head returned.
        """
        best: Candidates = self.head.candidates(outputs, limit=_MOST_CANDIDATES)
        restored_BQ4 = images.viewed().restore(best.xyxy_BQ4)
        lists = []
        for xyxy_Q4, score_Q, label_Q in zip(
            restored_BQ4, best.score_BQ.float(), best.label_BQ, strict=True
        ):
            # What was clipped to nothing is no box.
            keep_Q = (score_Q >= self.least_score) & (xyxy_Q4[:, 2:] > xyxy_Q4[:, :2]).all(1)
            xyxy_N4, score_N, label_N = xyxy_Q4[keep_Q], score_Q[keep_Q], label_Q[keep_Q]
            if self.head.needs_nms:
                limit = 0.6 if self.nms_iou is None else self.nms_iou
                kept_N = batched_nms(xyxy_N4, score_N, label_N, limit)
                xyxy_N4, score_N, label_N = xyxy_N4[kept_N], score_N[kept_N], label_N[kept_N]
            kept = (part[: self.max_boxes].cpu().numpy() for part in (xyxy_N4, label_N, score_N))
            lists.append(BoxList(*kept))
        return lists

    def _loss(self, batch: Batch, outputs: Any) -> Any:
        boxes, counted_B = _boxes(batch), self._counted(batch)
        return self.objective(outputs, boxes, counted_B=counted_B, canvas=_canvas(_images(batch)))

    def _counted(self, batch: Batch) -> Tensor:
        return _boxes(batch).present_B & batch.valid_B & batch.present("image")


def _as_tensors(boxes: BoxList) -> dict[str, Tensor]:
    """Return boxes as torchmetrics takes them."""
    found = {
        "boxes": torch.from_numpy(np.asarray(boxes.xyxy_N4, np.float32).reshape(-1, 4)),
        "labels": torch.from_numpy(boxes.label_N),
    }
    if boxes.score_N is not None:
        found["scores"] = torch.from_numpy(np.asarray(boxes.score_N, np.float32))
    return found


def annotated_boxes(batch: Batch) -> list[BoxList | None]:
    """Return each sample's annotated boxes in pixels of its image as stored; None without any.

    Those of a batch that knows how they were annotated are taken as they were.
    """
    boxes = batch.boxes
    if boxes is None:
        return [None] * batch.size
    restored_BG4 = _images(batch).viewed().restore(boxes.xyxy_BG4).cpu()
    mask_BG, label_BG = boxes.mask_BG.cpu(), boxes.label_BG.cpu()
    return [
        BoxList(
            boxes.annotated[row] if boxes.annotated else restored_BG4[row][mask_BG[row]].numpy(),
            label_BG[row][mask_BG[row]].numpy(),
        )
        if is_present
        else None
        for row, is_present in enumerate(boxes.present_B.tolist())
    ]


def _canvas(images: Images) -> tuple[int, int]:
    height, width = images.pixels_BCHW.shape[2:]
    return int(height), int(width)


def _images(batch: Batch) -> Images:
    if batch.image is None:
        raise UserError("the data has no images; name the member in data.members.image")
    return batch.image


def _boxes(batch: Batch) -> Boxes:
    if batch.boxes is None:
        raise UserError(
            "the data has no boxes; name the members in data.members.boxes and "
            "data.members.box_labels, such as json:boxes and json:labels"
        )
    return batch.boxes
