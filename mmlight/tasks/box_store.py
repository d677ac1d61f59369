"""The detections of a whole evaluation set, gathered over ranks."""

from dataclasses import dataclass, field

import numpy as np

from mmlight import comm
from mmlight.batch import Batch
from mmlight.metrics.boxes import BoxEvaluation, BoxList


@dataclass(frozen=True)
class _Row:
    index: int
    key: str
    size: tuple[int, int]
    found: BoxList
    wanted: BoxList | None


@dataclass
class BoxStore:
    """Collects one rank's detections and annotated boxes, batch by batch."""

    _rows: list[_Row] = field(default_factory=list)

    def add(self, batch: Batch, found: list[BoxList]) -> None:
        """Keep the rows that count.

        Args:
            batch: the samples.
            found: the detections of each, in pixels of the images as stored.
        """
        assert batch.image is not None
        boxes, view = batch.boxes, batch.image.viewed()
        restored_BG4 = view.restore(boxes.xyxy_BG4).cpu() if boxes is not None else None
        for row in batch.valid_B.nonzero()[:, 0].tolist():
            wanted = None
            if boxes is not None and restored_BG4 is not None and bool(boxes.present_B[row]):
                mask_G = boxes.mask_BG[row].cpu()
                annotated_N4 = boxes.annotated[row] if boxes.annotated else None
                if annotated_N4 is None:
                    annotated_N4 = restored_BG4[row][mask_G].numpy()
                wanted = BoxList(annotated_N4, boxes.label_BG[row].cpu()[mask_G].numpy())
            size = view.original_B2[row].tolist()
            self._rows.append(
                _Row(
                    index=int(batch.index_B[row]),
                    key=batch.keys[row],
                    size=(int(size[0]), int(size[1])),
                    found=found[row],
                    wanted=wanted,
                )
            )

    def gather(self, stage: str, *, class_names: list[str]) -> BoxEvaluation:
        """Return all ranks' rows by sample number; every rank calls it, and gets the same.

        A lone process gets its own.

        Args:
            stage: `val` or `test`.
            class_names: names of the classes.
        """
        rows = [row for part in comm.gather_objects(self._rows) for row in part]
        rows.sort(key=lambda row: row.index)
        return BoxEvaluation(
            stage=stage,
            samples_S=np.array([row.index for row in rows], dtype=np.int64),
            keys=[row.key for row in rows],
            found=[row.found for row in rows],
            wanted=[row.wanted for row in rows],
            sizes=[row.size for row in rows],
            class_names=class_names,
        )
