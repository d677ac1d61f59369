"""What a task scores, and what comes out of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mmlight.errors import UserError
from mmlight.metrics.bootstrap import Score, Statistic, estimate
from mmlight.modality import Modality
from mmlight.suites.features import Features


@dataclass(frozen=True)
class Scored:
    """What came out of a task.

    Attributes:
        scores: by name; the first is the one that a set is known by.
        details: what else is told: a setting that validation chose, chance.
    """

    scores: dict[str, Score]
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scoring:
    """A model's features of a set, and how scores are estimated.

    Attributes:
        features: by part: test, and train, val and second where there are such.
        modality: what is classified.
        class_names: of the set.
        seed: of the bootstrap.
        draws: of the bootstrap.
        weights_KD: the class names' features.
    """

    features: Mapping[str, Features]
    modality: Modality
    class_names: tuple[str, ...]
    seed: int
    draws: int
    weights_KD: Tensor | None = None

    @property
    def num_classes(self) -> int:
        """K: of the names, or as many as the labels tell."""
        if self.class_names:
            return len(self.class_names)
        labels = [f.label_S for f in self.features.values() if f.label_S is not None]
        return 1 + max(int(label_S.max()) for label_S in labels)

    def prompts(self) -> Tensor:
        """Return the class names' features (K, D)."""
        assert self.weights_KD is not None
        return self.weights_KD

    def labelled(self, part: str) -> tuple[Tensor, Tensor]:
        """Return the labelled features of a part.

        Raises:
            UserError: there are none.
        """
        found = self.features[part].labelled(self.modality)
        if not len(found[1]):
            raise UserError(f"no sample of {part} has a label and {self.modality}")
        return found

    def estimate(self, statistics: Mapping[str, Statistic], *, size: int) -> dict[str, Score]:
        """Return scores with their intervals."""
        return estimate(statistics, size=size, seed=self.seed, draws=self.draws)


def sums_of(value_N: Tensor, item_N: Tensor, *, size: int) -> Tensor:
    """Return the sum of each item's values (S,), float64."""
    zero_S = torch.zeros(size, dtype=torch.float64)
    return zero_S.index_add_(0, item_N.cpu(), value_N.double().cpu())
