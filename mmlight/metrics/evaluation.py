"""What an evaluation leaves behind for pictures: features of the whole set, on the CPU."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Evaluation:
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
