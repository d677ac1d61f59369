"""The loss of a whole evaluation set, of batches of different sizes.

Shapes as in `mmlight.batch`: B samples of this rank.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmlight import comm


@dataclass
class MeanLoss:
    """Collects the losses of batches: a batch counts as much as it has samples that count.

    Lightning's `log` would weigh by rows, also those that only fill up the last batch, and give
    this rank's mean alone.
    """

    _sums: list[Tensor] = field(default_factory=list)

    def add(self, value: Tensor, counted_B: Tensor) -> None:
        """Keep a batch's loss; nothing is waited for.

        Args:
            value: the mean over the batch's samples, of all ranks or of this one.
            counted_B: bool, this rank's samples in it.
        """
        count = counted_B.sum().double()
        total = torch.where(count > 0, value.detach().double() * count, 0.0)
        self._sums.append(torch.stack([total, count]))

    def scores(self) -> dict[str, float]:
        """Return ``loss``, the mean over the samples of all ranks; nothing where none counts.

        Every rank calls it, and gets the same; a lone process gets its own.
        """
        mine_2 = torch.stack(self._sums).sum(0) if self._sums else torch.zeros(2).double()
        total, count = comm.all_reduce_sum(mine_2).tolist()
        return {"loss": total / count} if count else {}
