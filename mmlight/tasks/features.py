"""One encoder by itself, as it was published: it encodes, and has nothing to learn from.

Shapes as in `mmlight.batch`: B samples, N captions, D feature width.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from mmlight.batch import Batch
from mmlight.errors import UserError
from mmlight.modality import Modality
from mmlight.tasks.graph import INPUTS, Graph
from mmlight.tasks.task import Task
from mmlight.tasks.tower import Towers


class Features(Task):
    """Encodes one modality, without a projection, a head or a loss.

    ``mmlight import`` writes a single encoder so, for other tasks to take by `from_run`.

    Args:
        towers: the one tower.
        settings: of every task, see `mmlight.tasks.task.Task`.

    Raises:
        UserError: no tower, or several.
    """

    predicts = "features"

    def __init__(self, *, towers: Towers, **settings: Any) -> None:
        super().__init__(towers=towers, **settings)
        names = list(towers.given())
        if len(names) != 1:
            raise UserError(
                f"model.towers names {', '.join(names) or 'none'}; Features takes exactly one"
            )
        self.modality: Modality = names[0]

    @property
    def takes_pieces(self) -> bool:
        """Whether samples may have several images or sounds."""
        return True

    def build(self) -> None:
        """Create the tower."""
        self.build_towers()

    def encode(self, modality: Modality, inputs: Any) -> Tensor:
        """Return the encoder's pooled features, of unit length: (B, D), or (N, D) for captions."""
        return F.normalize(self.tower(modality)(inputs).float(), dim=-1)

    def setup(self, stage: str) -> None:
        """Refuse to be trained."""
        if stage == "fit":
            raise UserError(
                "a Features task has no loss; name a task that learns, and take this tower by "
                f"model.towers.{self.modality}.from_run"
            )
        super().setup(stage)

    def graphs(self) -> list[Graph]:
        """Return the tower."""
        name = self.modality
        meaning = "float32, of unit length: a dot product is the cosine similarity"
        return [
            Graph(
                self.tower(name),
                name=name,
                function=lambda batch: (self.encode(name, getattr(batch, name)),),
                inputs=INPUTS[name],
                outputs={"features": meaning},
            )
        ]

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[Modality, Tensor]:
        """Return the features of a batch."""
        return {self.modality: self.encode(self.modality, getattr(batch, self.modality))}
