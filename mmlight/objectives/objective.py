"""The contract every objective fulfils.

Shapes as in `mmlight.batch`: B samples of this rank, N captions, D joint width.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn

from mmlight.batch import Batch
from mmlight.modality import Modality


@dataclass(frozen=True)
class Loss:
    """A scalar to minimise and what is worth logging beside it (detached scalars).

    Attributes:
        value: the loss of the global batch.
        logs: by name.
        terms: what each sample of this rank's batch adds to the loss, and what the sum of these is
            divided by, both (B,) and detached; None where that is not known.
    """

    value: Tensor
    logs: dict[str, Tensor] = field(default_factory=dict)
    terms: tuple[Tensor, Tensor] | None = None


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
