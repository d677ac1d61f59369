"""The logits of a whole evaluation set, gathered over ranks."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmlight import comm
from mmlight.batch import Batch
from mmlight.metrics.labelled import LabelledEvaluation


@dataclass
class AnswerStore:
    """Collects one rank's logits, batch by batch.

    Attributes:
        class_names: names of the classes; empty where they are not known.
    """

    class_names: list[str]
    _logits: list[Tensor] = field(default_factory=list)
    _labels: list[Tensor] = field(default_factory=list)
    _index: list[Tensor] = field(default_factory=list)
    _rows: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def add(self, batch: Batch, logits_BK: Tensor, labels: Tensor) -> None:
        """Keep the rows that count.

        Args:
            batch: the samples.
            logits_BK: the answers.
            labels: class numbers (B,), -1 for none, or targets (B, K).
        """
        keep_B = batch.valid_B
        self._logits.append(logits_BK[keep_B].detach().float().cpu())
        self._labels.append(labels[keep_B].detach().cpu())
        self._index.append(batch.index_B[keep_B].cpu())
        for row in keep_B.nonzero()[:, 0].tolist():
            fields = {name: values[row] for name, values in batch.fields.items()}
            self._rows.append((batch.keys[row], fields))

    def gather(self, stage: str) -> LabelledEvaluation:
        """Return all ranks' rows by sample number; every rank calls it, and gets the same.

        A lone process gets its own.
        """
        logits_SK, labels_S, index_S = (
            comm.gather_variable(torch.cat(parts))
            for parts in (self._logits, self._labels, self._index)
        )
        rows = [row for part in comm.gather_objects(self._rows) for row in part]
        order = np.argsort(index_S.numpy(), kind="stable")
        labels = labels_S.numpy()[order]
        names = list(rows[0][1]) if rows else []
        return LabelledEvaluation(
            stage=stage,
            samples_S=index_S.numpy()[order],
            keys=[rows[i][0] for i in order],
            logits_SK=logits_SK.numpy()[order],
            labels_S=labels if labels.ndim == 1 else None,
            targets_SK=labels if labels.ndim == 2 else None,
            class_names=self.class_names,
            fields={name: [rows[i][1][name] for i in order] for name in names},
        )
