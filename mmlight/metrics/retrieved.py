"""Retrieval over a whole evaluation set: its features, scored pair by pair of modalities.

Memory is linear in the number of samples: features (N, D) and blocks of similarities.
"""

from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch

from mmlight.metrics.recall import KS, class_scores, retrieval

SCORES = (
    *(f"recall_at_{k}" for k in KS),
    *("median_rank", "chance_recall_at_1", "precision_at_1", "class_map"),
)


@dataclass(frozen=True)
class RetrievalEvaluation:
    """Joint-space features of every evaluated sample, gathered from all ranks.

    Rows that only filled up a batch, and rows of missing modalities, are left out. S is the number
    of samples, N the rows of one modality (for text, every caption is a row), D the joint width.

    Attributes:
        stage: `val` or `test`.
        samples_S: int64, ascending, the number of each evaluated sample in its data set.
        keys: ``shard-name/sample-key`` of each sample, in the order of `samples_S`.
        features: by modality, (N, D) float32 of unit length.
        items: by modality, (N,) int64, the sample number each row belongs to.
        captions: the text of each text row; empty without text.
        labels_S: int64 class numbers in the order of `samples_S`, -1 where a sample has none; None
            where no label is mapped.
    """

    stage: str
    samples_S: np.ndarray
    keys: list[str]
    features: dict[str, np.ndarray]
    items: dict[str, np.ndarray]
    captions: list[str]
    labels_S: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Check that rows line up; a mismatch is a bug of the caller."""
        assert len(self.keys) == len(self.samples_S)
        assert self.features.keys() == self.items.keys()
        for modality, feature_ND in self.features.items():
            assert len(feature_ND) == len(self.items[modality]), modality
        assert len(self.captions) == len(self.items.get("text", ()))
        assert self.labels_S is None or len(self.labels_S) == len(self.samples_S)

    def labels_of(self, items_N: np.ndarray) -> np.ndarray | None:
        """Return the labels of these sample numbers, or None where no label is mapped."""
        if self.labels_S is None:
            return None
        return self.labels_S[np.searchsorted(self.samples_S, items_N)]


def score_pairs(evaluation: RetrievalEvaluation, *, device: torch.device) -> dict[str, float]:
    """Return metrics of every ordered pair of modalities, named ``image_to_text/recall_at_1``.

    Recall counts a query as found if any row of its own sample is among the first k; where
    samples have labels, ``precision_at_1`` counts it if the first row has its label, and
    ``class_map`` is the mean average precision with rows of the query's class as the right ones.

    Args:
        evaluation: the whole set.
        device: where similarities are computed.
    """
    features = {
        name: torch.from_numpy(x_ND).to(device) for name, x_ND in evaluation.features.items()
    }
    items = {name: torch.from_numpy(item_N).to(device) for name, item_N in evaluation.items.items()}
    labels: dict[str, torch.Tensor] = {}
    for name, item_N in evaluation.items.items():
        label_N = evaluation.labels_of(item_N)
        if label_N is not None and (label_N >= 0).all():
            labels[name] = torch.from_numpy(label_N).to(device)
    scores: dict[str, float] = {}
    for query, gallery in permutations(features, 2):
        known_N = torch.isin(items[query], items[gallery])
        if not known_N.any():
            continue
        both = (features[query][known_N], features[gallery])
        found = retrieval(*both, items[query][known_N], items[gallery])
        if query in labels and gallery in labels:
            found |= class_scores(*both, labels[query][known_N], labels[gallery])
        scores |= {f"{query}_to_{gallery}/{name}": value for name, value in found.items()}
    return scores
