"""Regression: a number or a vector from an image, a text, a sound, or any set of them.

Shapes as in `mmlight.batch`: B samples; K numbers of each.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmlight.batch import Batch
from mmlight.errors import UserError, nearest
from mmlight.metrics.numbers import SCORES, NumberEvaluation, number_scores
from mmlight.objectives.regression import NumberObjective, SquaredError
from mmlight.tasks.evaluation import Kept, Rows, Scored, Stage, Table, sample_columns
from mmlight.tasks.graph import NUMBERS, Graph, whole_graph
from mmlight.tasks.pooled import PooledTask
from mmlight.tasks.tower import Towers

# Of so many training samples at most the mean and the deviation are taken.
_MEASURED = 20_000


class Regression(PooledTask):
    """Predicts one number for each sample, or several.

    Args:
        towers: the encoders; one or more.
        target: the field of the data with the number, or with a list of numbers.
        names: what the numbers of a list are called, such as ``[x, y]``; None takes one number.
        objective: `mmlight.objectives.regression.SquaredError`, `AbsoluteError` or `Huber`.
        standardise: learn targets less the mean of training's, over their standard deviation; both
            are kept in the checkpoint. The loss is then of these, scores are of the data's numbers.
        settings: `fusion`, `head`, and those of every task; see `mmlight.tasks.pooled.PooledTask`.

    Raises:
        UserError: settings that contradict each other, or targets that are no such numbers.
    """

    mean_K: Tensor
    deviation_K: Tensor

    def __init__(
        self,
        *,
        towers: Towers,
        target: str,
        names: list[str] | None = None,
        objective: Callable[[], NumberObjective] = SquaredError,
        standardise: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__(towers=towers, **settings)
        if names is not None and (not names or len(set(names)) < len(names) or not all(names)):
            raise UserError(f"model.names: {names} must be one or more different names, or null")
        self.target = target
        self.names = names or [target]
        self._is_list = names is not None
        self._make_objective = objective
        self._standardise = standardise

    def build(self) -> None:
        """Create towers, fusion, head and objective, and measure training's targets."""
        self.build_pooled(out_dim=len(self.names))
        self.objective = self._make_objective()
        self.register_buffer("mean_K", torch.zeros(len(self.names)))
        self.register_buffer("deviation_K", torch.ones(len(self.names)))
        if self._standardise and self.is_fitting and hasattr(self.data, "field_values"):
            self._measure()

    def _measure(self) -> None:
        values = self.data.field_values("train", self.target, most=_MEASURED)
        rows = [self._numbers(value, "of training") for value in values]
        if not rows:
            raise UserError(f"model.target: no training sample has a value of '{self.target}'")
        target_NK = torch.tensor(rows, dtype=torch.float64)
        deviation_K = target_NK.std(0, correction=0)
        if not bool(deviation_K.all()):
            name = self.names[int((deviation_K == 0).nonzero()[0])]
            raise UserError(f"model.target: '{name}' is the same number in all training samples")
        self.mean_K.copy_(target_NK.mean(0))
        self.deviation_K.copy_(deviation_K)

    def values(self, batch: Batch) -> Tensor:
        """Return the numbers (B, K) that the model says, in the data's units, with gradients."""
        return self.head_outputs(self.features(batch)).float() * self.deviation_K + self.mean_K

    def known_targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the targets (B, K), and which samples that count have one (B,).

        Raises:
            UserError: the data has no such field, or a sample's value is no such number.
        """
        if self.target not in batch.fields:
            raise UserError(
                f"model.target: the data has no field '{self.target}'"
                f"{nearest(self.target, batch.fields)}; name it in data.members.fields, such as "
                f"{{{self.target}: json:{self.target}}}"
            )
        rows = [
            [math.nan] * len(self.names) if value is None else self._numbers(value, key)
            for value, key in zip(batch.fields[self.target], batch.keys, strict=True)
        ]
        target_BK = torch.tensor(rows, device=batch.index_B.device)
        return target_BK.nan_to_num(), ~target_BK.isnan().any(1) & batch.valid_B

    def example_fields(self, num_words: int) -> dict[str, Any]:
        """Return a target."""
        return {self.target: [0.0] * len(self.names) if self._is_list else 0.0}

    def _numbers(self, value: Any, key: str) -> list[float]:
        """Read a sample's value: K finite numbers, or texts of them."""
        given = value if self._is_list else [value]
        where = f"field '{self.target}' of sample {key}"
        if not isinstance(given, list) or len(given) != len(self.names):
            raise UserError(
                f"{where}: {str(value)[:60]!r} is no list of {len(self.names)} numbers "
                f"(model.names: {', '.join(self.names)})"
            )
        numbers = [_number(one) for one in given]
        if not all(math.isfinite(number) for number in numbers):
            hint = "; model.names says what a list's numbers are" if isinstance(value, list) else ""
            raise UserError(f"{where}: {str(value)[:60]!r} is not a finite number{hint}")
        return numbers

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss over the global batch."""
        target_BK, counted_B = self.known_targets(batch)
        scaled_BK = (target_BK - self.mean_K) / self.deviation_K
        outputs_BK = self.head_outputs(self.features(batch)).float()
        return self.log_loss(self.objective(outputs_BK, scaled_BK, counted_B=counted_B))

    def score_names(self) -> set[str]:
        """Return the names of all scores, also of each of several numbers."""
        prefixes = ["", *(f"{name}/" for name in self.names if len(self.names) > 1)]
        return {"loss", *(f"{prefix}{score}" for prefix in prefixes for score in SCORES)}

    def keep(self, batch: Batch) -> Kept:
        """Keep the numbers that the model says and those that are right."""
        target_BK, known_B = self.known_targets(batch)
        outputs_BK = self.head_outputs(self.features(batch)).float()
        scaled_BK = (target_BK - self.mean_K) / self.deviation_K
        columns = {
            "loss": self.objective.terms(outputs_BK, scaled_BK).mean(1),
            "value": (outputs_BK * self.deviation_K + self.mean_K).double(),
            "target": target_BK.double(),
        }
        return Kept({"samples": Rows(columns | sample_columns(batch), keep_N=known_B)})

    def score(self, tables: dict[str, Table], *, stage: Stage) -> Scored:
        """Score the numbers of the whole set."""
        table = tables["samples"]
        evaluation = NumberEvaluation(
            stage=stage,
            samples_S=table.sample_N.numpy(),
            keys=table["key"],
            value_SK=table["value"].numpy(),
            target_SK=table["target"].numpy(),
            names=self.names,
            fields=table.fields(),
        )
        values = number_scores(evaluation)
        if values:
            values["loss"] = float(np.mean(table["loss"].double().numpy()))
        return Scored(values, evaluation)

    def answers(self, tables: dict[str, Table]) -> tuple[Tensor, Tensor]:
        """Return the numbers that the model says and those that are right, (S, K) or (S,)."""
        table = tables["samples"]
        return self._shaped(table["value"]), self._shaped(table["target"])

    def example_answers(self) -> tuple[Tensor, Tensor]:
        """Return a few of them."""
        value_SK = torch.arange(8.0, dtype=torch.float64)[:, None].repeat(1, len(self.names))
        return self._shaped(value_SK), self._shaped(value_SK + 1)

    def _shaped(self, number_SK: Tensor) -> Tensor:
        return number_SK if self._is_list else number_SK[:, 0]

    def graphs(self) -> list[Graph]:
        """Return the model from samples to numbers."""
        return [whole_graph(self, {"values": NUMBERS}, lambda batch: (self.values(batch),))]

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """Return for each sample its number, or its numbers by name."""
        found: list[dict[str, Any]] = []
        for key, row in zip(batch.keys, self.values(batch).tolist(), strict=True):
            named = dict(zip(self.names, row, strict=True))
            found.append({"key": key} | ({"values": named} if self._is_list else {"value": row[0]}))
        return [found[row] for row in batch.valid_B.nonzero()[:, 0].tolist()]


def _number(value: Any) -> float:
    """Return a number, or that of a text; NaN for anything else."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return math.nan
