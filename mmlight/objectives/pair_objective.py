"""What losses over pairs of modalities share: settings, ranks, the weighted mean, logs.

Shapes as in `mmlight.batch`: B samples of this rank, G samples of all ranks, P pairs, D joint
width.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlight import comm
from mmlight.batch import Batch, Modality
from mmlight.errors import UserError
from mmlight.objectives.objective import Encode, Loss, Objective
from mmlight.objectives.pairs import (
    Pair,
    Positives,
    Rows,
    gather_rows,
    parse_pairs,
    used_modalities,
)

LogitsDtype = Literal["float32", "autocast"]


@dataclass(frozen=True)
class Part:
    """This rank's part of a pair's loss; the parts of all ranks add up to the loss.

    Attributes:
        loss: 0-d, sum over this rank's rows divided by the number of rows of all ranks.
        accuracy: 0-d, likewise for the share of rows whose most similar column is a positive.
    """

    loss: Tensor
    accuracy: Tensor


class PairObjective(Objective):
    """The base of losses over pairs of modalities.

    Each rank computes the rows of its own samples against the columns of all ranks, so that the
    work is divided between ranks, and gradients flow through the gathered columns too.

    Args:
        pairs: weights by pair; None is every pair of the towers.
        positives: which samples are one another's positives.
        logits_dtype: whether products of features are float32 even under autocast.
    """

    def __init__(
        self, *, pairs: dict[str, float] | None, positives: Positives, logits_dtype: LogitsDtype
    ) -> None:
        super().__init__()
        if positives not in ("sample", "caption", "label"):
            raise UserError(f"positives: '{positives}' is none of sample, caption, label")
        if logits_dtype not in ("float32", "autocast"):
            raise UserError(f"logits_dtype: '{logits_dtype}' is neither float32 nor autocast")
        self._weights = pairs
        self._positives: Positives = positives
        self._logits_dtype: LogitsDtype = logits_dtype
        self.pairs: tuple[Pair, ...] = ()

    @abstractmethod
    def create_parameters(self, num_pairs: int) -> None:
        """Create the learned parameters, of shape (P,): FSDP2 refuses 0-d ones."""

    @abstractmethod
    def column_modalities(self) -> tuple[Modality, ...]:
        """Return the modalities whose features of all ranks `part` compares with."""

    @abstractmethod
    def part(
        self,
        number: int,
        row_features: dict[Modality, Tensor],
        column_features: dict[Modality, Tensor],
        rows: Rows,
    ) -> Part:
        """Return this rank's part of the loss of ``self.pairs[number]``.

        Args:
            number: which pair, also the index of its learned parameters.
            row_features: (B, D) unit-length features of this rank.
            column_features: (G, D) unit-length features of all ranks, of `column_modalities`.
            rows: masks and positives.
        """

    @abstractmethod
    def learned(self) -> dict[str, Tensor]:
        """Return learned values by the name they are logged under, each (P,) and detached."""

    def modalities(self, available: tuple[Modality, ...]) -> tuple[Modality, ...]:
        """Return the modalities of the pairs; raises UserError for one not available."""
        return used_modalities(parse_pairs(self._weights, available=available))

    def build(self, available: tuple[Modality, ...]) -> None:
        """Create the parameters of each pair; see `Objective.build`."""
        pairs = parse_pairs(self._weights, available=available)
        if self.pairs:
            assert pairs == self.pairs, "an objective is built for one set of modalities"
            return
        self.pairs = pairs
        self.create_parameters(len(pairs))

    def forward(self, encode: Encode, batch: Batch) -> Loss:
        """Return the weighted mean over pairs of the loss over all ranks' samples.

        Every rank calls it in every step with the same number of samples. A pair that no sample
        of any rank has adds 0, with gradients of zero; its weight stays in the divisor, so that
        the other pairs' gradients do not jump.

        Args:
            encode: gives (B, D) features of a modality; called once for each, in a fixed order.
            batch: one caption per sample.

        Raises:
            UserError: the batch lacks a modality, or what `positives` compares.
        """
        assert self.pairs, "build() was not called"
        used = used_modalities(self.pairs)
        rows = gather_rows(batch, modalities=used, positives=self._positives)
        encoded = {m: encode(m) for m in used}
        device_type = encoded[used[0]].device.type
        # Under autocast the logits would be bf16: three times the gradient error that bf16
        # features have with float32 products.
        keep_autocast = self._logits_dtype == "autocast" and torch.is_autocast_enabled(device_type)
        with torch.autocast(device_type, enabled=False):
            row_features = {m: _unit_length(x_BD) for m, x_BD in encoded.items()}
            column_features = {
                m: comm.gather_with_grad(row_features[m]) for m in self.column_modalities()
            }
        with torch.autocast(device_type, enabled=keep_autocast):
            parts = [
                self.part(i, row_features, column_features, rows) for i in range(len(self.pairs))
            ]
        with torch.autocast(device_type, enabled=False):
            losses_P = torch.stack([p.loss for p in parts])
            accuracies_P = torch.stack([p.accuracy for p in parts])
            both_2P = comm.sum_with_grad(torch.stack([losses_P, accuracies_P]))
            weights_P = losses_P.new_tensor([p.weight for p in self.pairs])
            value = (both_2P[0] * weights_P).sum() / weights_P.sum()
        loss_P, accuracy_P = both_2P.detach().unbind()
        logged = {"loss": loss_P, "accuracy": accuracy_P, **self.learned()}
        logs = {
            f"{name}/{pair.name}": values_P[i]
            for name, values_P in logged.items()
            for i, pair in enumerate(self.pairs)
        }
        return Loss(value=value, logs=logs)


def similarity(row_BD: Tensor, column_GD: Tensor) -> Tensor:
    """Return the products (B, G) in at least float32, whatever autocast multiplied in."""
    return at_least_float32(row_BD @ column_GD.T)


def count_hits(masked_BG: Tensor, *, rows: Rows, valid_G: Tensor) -> Tensor:
    """Return how many valid rows have a positive as their most similar column (0-d).

    Args:
        masked_BG: similarities, very low in the columns that are not valid.
        rows: positives.
        valid_G: which samples have both modalities.
    """
    best_B = masked_BG.detach().argmax(1)
    if rows.group_G is None:
        hit_B = best_B == rows.self_B
    else:
        hit_B = rows.positive_BG.gather(1, best_B[:, None]).squeeze(1)
    return (hit_B & rows.local(valid_G)).sum().to(masked_BG.dtype)


def _unit_length(x_BD: Tensor) -> Tensor:
    return F.normalize(at_least_float32(x_BD), dim=-1)


def at_least_float32(x: Tensor) -> Tensor:
    """Return `x` in float32, or as it is if it is float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
