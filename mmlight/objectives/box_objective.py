"""The contract of detection losses.

Shapes as in `mmlight.batch`: B samples of this rank, G boxes.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from mmlight import comm
from mmlight.batch import Boxes
from mmlight.errors import UserError
from mmlight.objectives.objective import Loss, Terms


class BoxObjective(nn.Module, ABC):
    """A loss of a detection head's outputs against the objects.

    Attributes:
        kind: which heads it understands (`BoxHead.kind`).
    """

    kind: ClassVar[Literal["dense", "query"]]

    @abstractmethod
    def forward(
        self, outputs: Any, boxes: Boxes, *, counted_B: Tensor, canvas: tuple[int, int]
    ) -> Loss:
        """Return the loss over all ranks' samples; every rank calls it in every step.

        Args:
            outputs: what the head returned.
            boxes: the objects, in pixels of the padded images.
            counted_B: bool, samples of which the objects are known; the others do not count.
            canvas: height and width of the padded images.
        """


def joined(parts: Mapping[str, Tensor], *, divisor: Tensor, weights: Mapping[str, float]) -> Loss:
    """Sum each part over samples and ranks, divide by the sum of a count, and weigh them.

    Every rank calls it with the same parts; a lone process has only its own.

    Args:
        parts: of each of this rank's samples (B,) by name.
        divisor: what each sample adds to what is divided by (B,), at least 1 in total.
        weights: of the parts.
    """
    part_PB = torch.stack(list(parts.values()))
    sums = comm.mean_over_ranks(part_PB.sum(1), divisor.sum().to(part_PB.dtype))
    values = dict(zip(parts, sums, strict=True))
    value = torch.stack([weights[name] * part for name, part in values.items()]).sum()
    total_B = sum(weights[name] * part.detach() for name, part in parts.items())
    logs = {f"{name}_loss": part.detach() for name, part in values.items()}
    return Loss(value, logs, (Terms(torch.as_tensor(total_B), divisor),))


def of_samples(value_M: Tensor, row_M: Tensor, *, num_samples: int) -> Tensor:
    """Return the sum of the values of each sample (B,), of which `row_M` says the numbers."""
    return value_M.new_zeros(num_samples).index_add(0, row_M, value_M)


def widened(x: Tensor) -> Tensor:
    """Return `x` in at least float32: half precision loses small boxes and their overlaps."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def check_weights(**weights: float) -> None:
    """Refuse weights that turn a part of a loss off or around."""
    for name, value in weights.items():
        if not value > 0:
            raise UserError(f"model.objective.{name} must be above 0, not {value}")
