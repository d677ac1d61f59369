"""How good frozen features are: a linear probe and nearest neighbours, after an evaluation."""

from collections.abc import Iterable
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from mmlight import comm
from mmlight.batch import Batch
from mmlight.errors import UserError
from mmlight.metrics.neighbours import knn_logits, label_figures, linear_labels
from mmlight.modality import Modality


class Probe(pl.Callback):
    """Scores each tower's pooled features with classifiers fitted on the training split.

    When the test set is scored, and under ``mmlight validate``: it encodes the training split
    without augmentation, once, and logs ``test/knn/image_accuracy``, ``test/linear/image_accuracy``
    and the same of ``macro_f1``. The classes are the data's labels; where words are tagged, the
    tags, and the features are those of each word's first token. The model itself is not changed.
    Rank 0 fits the classifiers.

    Args:
        methods: ``knn``: the votes of the nearest training samples; ``linear``: logistic regression
            on standardised features.
        k: neighbours that vote.
        inverse_l2: the regression's C: smaller means more regularisation.
        max_train: training samples that are used, evenly spread; None takes all.
    """

    def __init__(
        self,
        methods: list[Literal["knn", "linear"]] | None = None,
        k: int = 20,
        inverse_l2: float = 1.0,
        max_train: int | None = None,
    ) -> None:
        if k < 1:
            raise UserError(f"probe.k: {k} must be 1 or more")
        if inverse_l2 <= 0:
            raise UserError(f"probe.inverse_l2: {inverse_l2} must be above 0")
        if max_train is not None and max_train < 1:
            raise UserError(f"probe.max_train: {max_train} must be 1 or more")
        if methods == []:
            raise UserError("probe.methods is empty; name knn, linear or both")
        self.methods = methods or ["knn", "linear"]
        self.k = k
        self.inverse_l2 = inverse_l2
        self.max_train = max_train
        self._kept: dict[Modality, list[tuple[Tensor, Tensor]]] = {}

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Check that there are labels and a training split."""
        pl_module.check_probe(_data(trainer))
        if "train" not in _data(trainer).split_names():
            raise UserError("probe fits its classifiers on data.train.shards, which is not set")

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the last evaluation."""
        self._kept = {}

    on_validation_epoch_start = on_test_epoch_start

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Batch, *_: Any, **__: Any
    ) -> None:
        """Keep the batch's features."""
        if _scores_now(trainer):
            _encode(pl_module, batch, into=self._kept)

    on_validation_batch_end = on_test_batch_end

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Encode the training split, fit, score and log."""
        if not _scores_now(trainer):
            return
        train: dict[Modality, list[tuple[Tensor, Tensor]]] = {}
        data = _data(trainer)
        for batch in _spread(data.eval_loader("train"), self.max_train, size=data.eval_batch_size):
            with torch.no_grad():
                _encode(pl_module, batch.to(pl_module.device), into=train)
        stage = "test" if trainer.testing else "val"
        scores: dict[str, float] = {}
        for name, parts in self._kept.items():
            query_QD, label_Q = _joined(parts)
            train_ND, label_N = _joined(train.get(name, []))
            if not len(query_QD) or not len(train_ND):
                continue
            for method in self.methods:
                found_Q = self._classify(method, train_ND, label_N, query_QD)
                figures = label_figures(found_Q, label_Q.numpy())
                scores |= {f"{stage}/{method}/{name}_{k}": v for k, v in figures.items()}
        pl_module.log_dict(scores)
        self._kept = {}

    on_validation_epoch_end = on_test_epoch_end

    def _classify(
        self, method: str, train_ND: Tensor, label_N: Tensor, query_QD: Tensor
    ) -> np.ndarray:
        if method == "knn":
            count = int(label_N.max()) + 1
            votes_QK = knn_logits(train_ND, label_N, query_QD, num_classes=count, k=self.k)
            return votes_QK.argmax(1).numpy()
        return linear_labels(
            train_ND.numpy(), label_N.numpy(), query_QD.numpy(), inverse_l2=self.inverse_l2
        )


def _scores_now(trainer: pl.Trainer) -> bool:
    return bool(trainer.testing) or trainer.state.fn == "validate"


def _data(trainer: pl.Trainer) -> Any:
    return trainer.datamodule  # type: ignore[attr-defined]


def _encode(task: Any, batch: Batch, *, into: dict[Modality, list[tuple[Tensor, Tensor]]]) -> None:
    for name, (features_ND, label_N) in task.probe_rows(batch).items():
        into.setdefault(name, []).append((features_ND.detach().float().cpu(), label_N.cpu()))


def _joined(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return the features and labels of all ranks; every rank calls it."""
    if not parts:
        return torch.empty(0, 0), torch.empty(0, dtype=torch.int64)
    features_ND = comm.gather_variable(torch.cat([features for features, _ in parts]))
    labels_N = comm.gather_variable(torch.cat([labels for _, labels in parts]))
    return features_ND, labels_N


def _spread(batches: Any, limit: int | None, *, size: int) -> Iterable[Batch]:
    """Yield every batch, or so many of them, evenly spread, as hold `limit` samples."""
    if limit is None:
        yield from batches
        return
    total = len(batches)
    wanted = max(1, min(total, -(-limit // (size * comm.world_size()))))
    chosen = {number * total // wanted for number in range(wanted)}
    for number, one in enumerate(batches):
        if number in chosen:
            yield one
