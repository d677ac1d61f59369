"""The contract every objective fulfils.

Shapes as in `mmlight.batch`: B samples of this rank, N captions, D joint width.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Protocol

from torch import Tensor, nn

from mmlight import comm
from mmlight.batch import Batch
from mmlight.modality import Modality


@dataclass(frozen=True)
class Terms:
    """What a mean is made of: the sum of totals divided by that of counts, over all ranks.

    Attributes:
        total: of each sample of this rank's batch, or of parts of them, in any shape.
        count: likewise.
        sample: int64, the row of the batch that each part is of, likewise, or one for all parts in
            a row of the first axis; -1 of parts that do not count; None where the first axis is
            samples.
    """

    total: Tensor
    count: Tensor
    sample: Tensor | None = None

    def weighted(self, weight: float) -> "Terms":
        """Return the terms of the mean times a weight."""
        return Terms(weight * self.total, self.count, self.sample)


@dataclass(frozen=True)
class Loss:
    """A scalar to minimise and what is worth logging beside it (detached scalars).

    Attributes:
        value: the loss of the global batch.
        logs: by name.
        terms: detached, of the means of which the loss is the sum, if each sample had its part of
            each; empty where it is not known what a sample adds.
    """

    value: Tensor
    logs: dict[str, Tensor] = field(default_factory=dict)
    terms: tuple[Terms, ...] = ()

    def of_samples(self, sample: Tensor) -> "Loss":
        """Return the same loss, of whose terms each part is of the sample that is given for it.

        Args:
            sample: see `Terms`.
        """
        return replace(self, terms=tuple(replace(term, sample=sample) for term in self.terms))


def mean_loss(
    total_B: Tensor,
    count_B: Tensor,
    logs: dict[str, Tensor] | None = None,
    *,
    least: float = 1.0,
) -> Loss:
    """Return the mean over the samples of all ranks as a loss; every rank calls it.

    Args:
        total_B: what each sample adds to the sum, with its gradient.
        count_B: what each adds to the divisor.
        logs: what is logged beside it.
        least: the smallest divisor, where nothing counts.
    """
    value = comm.mean_over_ranks(total_B.sum(), count_B.sum(), least=least)
    return Loss(value, logs or {}, (Terms(total_B.detach(), count_B),))


class Encode(Protocol):
    """Gives the joint-space features of a modality, computed once per step.

    Returns (B, D) features, not normalised; rows of missing samples hold finite values.
    """

    def __call__(self, modality: Modality) -> Tensor:
        """Return the features of `modality`."""
        ...


class Objective(nn.Module, ABC):
    """A loss that owns its learned parameters (temperature, bias, ...)."""

    @abstractmethod
    def forward(self, encode: Encode, batch: Batch) -> Loss:
        """Return the loss of the global batch; every rank calls it in every step.

        On several ranks the value is the loss over all ranks' samples, the same on every rank,
        and gradients are right after an average over ranks (what DDP and FSDP do).
        """

    def modalities(self, available: tuple[Modality, ...]) -> tuple[Modality, ...]:
        """Return the modalities this objective needs; raises UserError for one not available."""
        return available

    def build(self, available: tuple[Modality, ...]) -> None:
        """Create the parameters, now that the towers are known.

        The task calls it in ``configure_model``, before parameters are counted, moved or wrapped.
        Calling it again with the same modalities changes nothing.

        Args:
            available: the modalities that have a tower.

        Raises:
            UserError: a setting names a modality that is not available.
        """

    def after_step(self) -> None:
        """Put parameters back into their range after an optimiser step (no collective)."""
