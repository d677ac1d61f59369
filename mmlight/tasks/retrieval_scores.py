"""Features of a whole evaluation set, gathered over ranks and scored pair by pair.

Memory is linear in the number of samples: features (N, D) and blocks of similarities.
Shapes as in `mmlight.batch`; N rows of one modality over the whole set, D joint width.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mmlight import comm
from mmlight.batch import Batch, Modality
from mmlight.metrics.evaluation import Evaluation
from mmlight.metrics.recall import (
    mean_average_precision_by_class,
    precision_at_1_by_class,
    retrieval,
)

KS = (1, 5, 10)
SCORES = (
    *(f"recall_at_{k}" for k in KS),
    *("median_rank", "chance_recall_at_1", "precision_at_1", "class_map"),
)


@dataclass(frozen=True)
class Rows:
    """All rows of one modality.

    Attributes:
        features_ND: unit-length float32 features on the CPU.
        item_N: int64, the sample each row belongs to.
        label_N: int64 class of that sample, -1 where it has none.
    """

    features_ND: Tensor
    item_N: Tensor
    label_N: Tensor


@dataclass(frozen=True)
class Gathered:
    """The whole evaluation set, the same on every rank.

    Attributes:
        rows: by modality, sorted by sample.
        captions: the text rows' captions; empty without text.
        keys: sample number to ``shard/key``.
    """

    rows: dict[Modality, Rows]
    captions: list[str]
    keys: dict[int, str]

    def as_evaluation(self, stage: str) -> Evaluation:
        """Return what pictures are drawn from (numpy)."""
        samples = sorted(self.keys)
        label_of: dict[int, int] = {}
        for rows in self.rows.values():
            label_of.update(zip(rows.item_N.tolist(), rows.label_N.tolist(), strict=True))
        labels_S = np.array([label_of.get(sample, -1) for sample in samples], dtype=np.int64)
        return Evaluation(
            stage=stage,
            samples_S=np.array(samples, dtype=np.int64),
            keys=[self.keys[sample] for sample in samples],
            features={name: rows.features_ND.numpy() for name, rows in self.rows.items()},
            items={name: rows.item_N.numpy() for name, rows in self.rows.items()},
            captions=self.captions,
            labels_S=labels_S if (labels_S >= 0).any() else None,
        )


@dataclass
class FeatureStore:
    """Collects one rank's rows, batch by batch.

    Attributes:
        modalities: those that are kept.
    """

    modalities: tuple[Modality, ...]
    _parts: dict[Modality, list[tuple[Tensor, Tensor, Tensor]]] = field(default_factory=dict)
    _captions: list[str] = field(default_factory=list)
    _keys: dict[int, str] = field(default_factory=dict)

    def add(self, batch: Batch, features: dict[Modality, Tensor]) -> None:
        """Keep the rows of a batch that are there and count."""
        label_B = batch.label_B
        if label_B is None:
            label_B = torch.full_like(batch.index_B, -1)
        valid = batch.valid_B.tolist()
        for index, key, counts in zip(batch.index_B.tolist(), batch.keys, valid, strict=True):
            if counts:
                self._keys[index] = key
        for name in self.modalities:
            if name not in features:
                continue
            if name == "text" and batch.text is not None:
                sample_N = batch.text.item_N
            else:
                sample_N = torch.arange(batch.size, device=batch.index_B.device)
            keep_N = batch.present(name) & batch.valid_B[sample_N]
            self._parts.setdefault(name, []).append(
                (
                    features[name].detach().float()[keep_N].cpu(),
                    batch.index_B[sample_N][keep_N].cpu(),
                    label_B[sample_N][keep_N].cpu(),
                )
            )
            if name == "text":
                kept = keep_N.tolist()
                self._captions += [c for c, k in zip(batch.captions, kept, strict=True) if k]

    def gather(self) -> Gathered:
        """Return the rows of all ranks; every rank calls it, a lone process gets its own."""
        rows: dict[Modality, Rows] = {}
        captions = [c for part in comm.gather_objects(self._captions) for c in part]
        keys = {i: k for part in comm.gather_objects(self._keys) for i, k in part.items()}
        # Every rank has the same number of batches, so the same modalities, if with fewer rows.
        for name, parts in self._parts.items():
            features_ND, item_N, label_N = (
                comm.gather_variable(torch.cat(column)) for column in zip(*parts, strict=True)
            )
            order_N = torch.argsort(item_N, stable=True)
            if name == "text":
                captions = [captions[i] for i in order_N.tolist()]
            rows[name] = Rows(features_ND[order_N], item_N[order_N], label_N[order_N])
        return Gathered(rows=rows, captions=captions, keys=keys)


def score_pairs(gathered: Gathered, *, device: torch.device) -> dict[str, float]:
    """Return metrics of every ordered pair of modalities, named ``image_to_text/recall_at_1``.

    Recall counts a query as found if any row of its own sample is among the first k; where
    samples have labels, ``precision_at_1`` counts it if the first row has its label, and
    ``class_map`` is the mean average precision with rows of the query's class as the right ones.
    """
    scores: dict[str, float] = {}
    for query_name, query in gathered.rows.items():
        for gallery_name, gallery in gathered.rows.items():
            if query_name == gallery_name:
                continue
            known_N = torch.isin(query.item_N, gallery.item_N)
            if not known_N.any():
                continue
            query_ND = query.features_ND[known_N].to(device)
            gallery_MD = gallery.features_ND.to(device)
            found = retrieval(
                query_ND,
                gallery_MD,
                query.item_N[known_N].to(device),
                gallery.item_N.to(device),
                ks=KS,
            )
            pair = f"{query_name}_to_{gallery_name}"
            for k, value in found.recall_at.items():
                scores[f"{pair}/recall_at_{k}"] = value
            scores[f"{pair}/median_rank"] = found.median_rank
            scores[f"{pair}/chance_recall_at_1"] = found.chance_recall_at_1
            if (query.label_N >= 0).all() and (gallery.label_N >= 0).all():
                labelled = (query_ND, gallery_MD, query.label_N[known_N], gallery.label_N)
                scores[f"{pair}/precision_at_1"] = precision_at_1_by_class(*labelled)
                scores[f"{pair}/class_map"] = mean_average_precision_by_class(*labelled)
    # No query has a row of its class: there is no such score.
    return {name: value for name, value in scores.items() if not math.isnan(value)}
