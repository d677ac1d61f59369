"""What an evaluation of a joint space keeps of a batch, and how retrieval is scored from it.

Shapes as in `mmlight.batch`: B samples, N captions, D joint width.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from mmlight.batch import Batch
from mmlight.metrics.retrieved import RetrievalEvaluation
from mmlight.modality import Modality
from mmlight.tasks.evaluation import Column, Rows, Stage, Table

_SAMPLES = "samples"  # a table beside those of the modalities


def joint_rows(batch: Batch, features: Mapping[Modality, Tensor]) -> dict[str, Rows]:
    """Return the tables of a batch: its samples, and each modality's features.

    Args:
        batch: an evaluation batch.
        features: unit-length, (B, D) per modality, (N, D) for text.
    """
    label_B = batch.label_B
    if label_B is None:
        label_B = torch.full_like(batch.index_B, -1)
    samples = Rows({"key": batch.keys, "label": label_B})
    return {_SAMPLES: samples} | {str(n): _rows(batch, n, x_ND) for n, x_ND in features.items()}


def _rows(batch: Batch, name: Modality, features_ND: Tensor) -> Rows:
    columns: dict[str, Column] = {"feature": features_ND.float()}
    row_N = None
    if name == "text" and batch.text is not None:
        columns["caption"] = batch.captions
        row_N = batch.text.item_N
    return Rows(columns, row_N=row_N, keep_N=batch.present(name))


def paired_samples(batch: Batch, modalities: Iterable[Modality]) -> Tensor:
    """Tell which samples a contrastive loss is about, (B,): a pair takes two modalities.

    Args:
        batch: with one caption for each sample.
        modalities: those that have a tower.
    """
    present = [batch.present(name) for name in batch.modalities() if name in modalities]
    return (torch.stack(present).sum(0) > 1) & batch.valid_B


def joint_evaluation(
    tables: Mapping[str, Table], modalities: Iterable[Modality], *, stage: Stage
) -> RetrievalEvaluation:
    """Return the features of a whole set.

    Args:
        tables: of `joint_rows`, from all ranks.
        modalities: those that have a tower.
        stage: what the evaluation is called.
    """
    samples, label_S = tables[_SAMPLES], tables[_SAMPLES]["label"].numpy()
    rows = {name: tables[name] for name in modalities if name in tables}
    return RetrievalEvaluation(
        stage=stage,
        samples_S=samples.sample_N.numpy(),
        keys=samples["key"],
        features={name: table["feature"].numpy() for name, table in rows.items()},
        items={name: table.sample_N.numpy() for name, table in rows.items()},
        captions=rows["text"]["caption"] if "text" in rows else [],
        labels_S=label_S if (label_S >= 0).any() else None,
    )


def first_captions(
    batch: Batch, features: dict[Modality, Tensor]
) -> tuple[Callable[[Modality], Tensor], Batch]:
    """Return what the objective takes when samples have several captions: the first of each.

    Args:
        batch: an evaluation batch; its captions are sorted by sample.
        features: (B, D) per modality, (N, D) for text.
    """
    text = batch.text
    if text is None:
        return features.__getitem__, batch
    first_B = text.first_rows(batch.size)
    selected = features | {"text": features["text"][first_B]} if "text" in features else features
    return selected.__getitem__, batch.with_first_text()
