"""A task of one's own with its encoder, loss and metric, in one file: how much there is.

An experiment names them as ``my_parts.Amount`` and so on, below ``import: my_parts``; see
``experiments/own/digits_amount.yaml``.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric

from mmlight.batch import Batch, Images
from mmlight.encoders.encoder import Block, Encoded, Encoder
from mmlight.objectives.regression import NumberObjective
from mmlight.tasks.evaluation import Kept, Rows, Scored, Stage, Table
from mmlight.tasks.pooled import PooledTask


class Grid(Encoder):
    """The brightness of an image's cells, and one layer on it.

    Args:
        cells: of each side.
        grid_dim: width of the features.
    """

    modality = "image"

    def __init__(self, *, cells: int = 7, grid_dim: int = 64) -> None:
        super().__init__()
        self.cells, self.out_dim = cells, grid_dim
        self.layer = nn.Linear(cells * cells, grid_dim)

    def forward(self, inputs: Images, *, tokens: bool = False) -> Encoded:
        """Encode pixels (B, C, H, W), 0 to 255."""
        grey_B1HW = inputs.pixels_BCHW.float().mean(1, keepdim=True) / 255
        cells_BC = F.adaptive_avg_pool2d(grey_B1HW, self.cells).flatten(1)
        return Encoded(self.layer(cells_BC).relu())

    def blocks(self) -> list[Block]:
        """Return the one step of its depth."""
        return [Block("layer", (self.layer,), repeated=False)]

    def set_checkpointing(self, enabled: bool) -> None:
        """Nothing is worth recomputing."""

    def rebuild_args(self) -> dict[str, Any]:
        """Return what a checkpoint rebuilds it from."""
        return {"cells": self.cells, "grid_dim": self.out_dim}


class LogCosh(NumberObjective):
    """``log cosh(value - target)``: squared where it is small, absolute where it is large."""

    def terms(self, value_BK: Tensor, target_BK: Tensor) -> Tensor:
        """Return the loss of each number."""
        apart_BK = (value_BK - target_BK).abs()
        return apart_BK + F.softplus(-2 * apart_BK) - torch.tensor(2.0).log()


class Near(Metric):
    """The share of samples that are at most `tolerance` away."""

    higher_is_better = True

    def __init__(self, *, tolerance: float = 0.5, **settings: Any) -> None:
        super().__init__(**settings)
        self.tolerance = tolerance
        self.add_state("near", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count samples."""
        self.near += ((preds - target).abs() <= self.tolerance).sum()
        self.count += target.numel()

    def compute(self) -> Tensor:
        """Return the share."""
        return self.near / self.count


class Amount(PooledTask):
    """A number from 0 to `most`, read from a field of the data.

    Args:
        amount: the field.
        most: the largest.
        settings: towers and all else that a `PooledTask` takes.
    """

    def __init__(self, *, amount: str, most: float, **settings: Any) -> None:
        super().__init__(**settings)
        self.amount, self.most = amount, most

    def build(self) -> None:
        """Create the modules."""
        self.build_pooled(out_dim=1)
        self.objective = LogCosh()

    def values(self, batch: Batch) -> Tensor:
        """Return the amounts (B, 1)."""
        return self.most * self.head_outputs(self.features(batch)).float().sigmoid()

    def right(self, batch: Batch) -> Tensor:
        """Return the true amounts (B, 1)."""
        return torch.tensor([[float(x)] for x in batch.fields[self.amount]], device=self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss over the global batch."""
        return self.log_loss(
            self.objective(self.values(batch), self.right(batch), counted_B=batch.valid_B)
        )

    def score_names(self) -> set[str]:
        """Return what it scores besides `metrics`."""
        return {"mae"}

    def keep(self, batch: Batch) -> Kept:
        """Keep both amounts of each sample."""
        return Kept({"samples": Rows({"is": self.right(batch), "said": self.values(batch)})})

    def score(self, tables: dict[str, Table], *, stage: Stage) -> Scored:
        """Score the whole set."""
        said, right = self.answers(tables)
        return Scored({"mae": float((said - right).abs().mean())})

    def answers(self, tables: dict[str, Table]) -> tuple[Tensor, Tensor]:
        """Return what metrics take."""
        return tables["samples"]["said"][:, 0], tables["samples"]["is"][:, 0]

    def example_answers(self) -> tuple[Tensor, Tensor]:
        """Return a few of the same kind."""
        return torch.arange(4.0), torch.arange(4.0)

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """Return a row for each sample."""
        values_B = self.values(batch)[:, 0].tolist()
        rows = batch.valid_B.nonzero()[:, 0].tolist()
        return [{"key": batch.keys[row], "amount": values_B[row]} for row in rows]
