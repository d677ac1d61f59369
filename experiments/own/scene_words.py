"""A metric of the quickstart's scenes: which attribute a caption gets right.

An experiment names it as ``scene_words.SceneWords`` below ``import: scene_words``; see
``experiments/own/scenes_captions.yaml``.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from mmlight.data.scenes.scene import COLOURS, SHAPES

PARTS = ("colours", "shapes", "relation")


def attributes(caption: str) -> dict[str, tuple[str, ...]]:
    """Return what a canonical caption says: colours and shapes in order, and the relation."""
    words = caption.split()
    return {
        "colours": tuple(word for word in words if word in COLOURS),
        "shapes": tuple(word for word in words if word in SHAPES),
        "relation": tuple(word for word in words if word in ("left", "above")),
    }


class SceneWords(Metric):
    """Shares of right colours and shapes (two of each caption) and of right relations."""

    higher_is_better = True

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.add_state("right", torch.zeros(len(PARTS)), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(len(PARTS)), dist_reduce_fx="sum")

    def update(self, preds: Sequence[str], target: Sequence[Sequence[str]]) -> None:
        """Count attributes of captions, in their places; the first reference is right."""
        for said, references in zip(preds, target, strict=True):
            ours, theirs = attributes(said), attributes(references[0])
            for number, part in enumerate(PARTS):
                pairs = zip(ours[part], theirs[part], strict=False)
                self.right[number] += sum(a == b for a, b in pairs)
                self.count[number] += len(theirs[part])

    def compute(self) -> dict[str, Tensor]:
        """Return each attribute's share."""
        share = self.right / self.count.clamp(min=1)
        return {f"{part}_accuracy": share[number] for number, part in enumerate(PARTS)}
