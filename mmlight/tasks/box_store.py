"""The detections of a whole evaluation set, gathered over ranks."""

from dataclasses import dataclass, field

import numpy as np

from mmlight import comm
from mmlight.batch import Batch
from mmlight.metrics.boxes import BoxEvaluation, BoxList


@dataclass
class BoxStore:
    """Collects one rank's detections and annotated boxes, batch by batch."""

    _rows: list[tuple[int, str, BoxList, BoxList | None]] = field(default_factory=list)

    def add(self, batch: Batch, found: list[BoxList]) -> None:
        """Keep the rows that count.

        Args:
            batch: the samples.
            found: the detections of each, in pixels of the images as stored.
        """
        assert batch.image is not None
        boxes, view = batch.boxes, batch.image.view
        restored_BG4 = view.restore(boxes.xyxy_BG4).cpu() if boxes and view else None
        for row in batch.valid_B.nonzero()[:, 0].tolist():
            wanted = None
            if boxes is not None and restored_BG4 is not None and bool(boxes.present_B[row]):
                mask_G = boxes.mask_BG[row].cpu()
                wanted = BoxList(
                    restored_BG4[row][mask_G].numpy(), boxes.label_BG[row].cpu()[mask_G].numpy()
                )
            self._rows.append((int(batch.index_B[row]), batch.keys[row], found[row], wanted))

    def gather(self, stage: str, *, class_names: list[str]) -> BoxEvaluation:
        """Return all ranks' rows by sample number; every rank calls it, and gets the same.

        A lone process gets its own.

        Args:
            stage: `val` or `test`.
            class_names: names of the classes.
        """
        rows = [row for part in comm.gather_objects(self._rows) for row in part]
        rows.sort(key=lambda row: row[0])
        return BoxEvaluation(
            stage=stage,
            samples_S=np.array([row[0] for row in rows], dtype=np.int64),
            keys=[row[1] for row in rows],
            found=[row[2] for row in rows],
            wanted=[row[3] for row in rows],
            class_names=class_names,
        )
