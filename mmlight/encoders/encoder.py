"""The contract every encoder fulfils.

Shapes as in `mmlight.batch`: B samples, L tokens or frames, D feature width.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from mmlight.batch import Modality


@dataclass(frozen=True)
class Encoded:
    """What an encoder returns.

    Attributes:
        pooled_BD: one vector per sample.
        tokens_BLD: one vector per token, patch or frame; None unless asked for.
        mask_BL: bool, True for real tokens; None unless tokens were asked for.
    """

    pooled_BD: Tensor
    tokens_BLD: Tensor | None = None
    mask_BL: Tensor | None = None


@dataclass(frozen=True)
class Block:
    """One step of an encoder's depth, from the input (stem) to the output (final norm).

    Attributes:
        name: dotted name of the module inside the encoder.
        modules: the modules that make up this step; each parameter of the encoder belongs to
            exactly one block.
        repeated: True for the uniform layers that are worth sharding, compiling and checkpointing
            one by one.
    """

    name: str
    modules: tuple[nn.Module, ...]
    repeated: bool


class Encoder(nn.Module, ABC):
    """A backbone for one modality.

    Subclasses set `modality` and `out_dim` (and `is_pretrained` where they start from weights that
    somebody trained; `origin` then says in a line what was loaded), and take plain settings
    (numbers, strings, dicts) in ``__init__``, so that a checkpoint can rebuild them. Parameter
    names of ``__init__`` are distinct between encoders (a swapped `class_path` keeps values of
    equal names). `frame_ms` is the distance of two tokens where these are frames in order of time,
    real ones first. `outside` names the settings that point to a file or to a hub: `rebuild_args`
    leaves them out, and a checkpoint that sets one is refused.
    """

    modality: ClassVar[Modality]
    out_dim: int
    is_pretrained: bool = False
    origin: str | None = None
    frame_ms: float | None = None
    outside: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def forward(self, inputs: Any, *, tokens: bool = False) -> Encoded:
        """Encode `Images`, `Text` or `Audio` (see `mmlight.batch`).

        Args:
            inputs: the part of the batch for `modality`. Rows that miss the modality are encoded
                like any other (finite values in, finite values out); callers mask them.
            tokens: also return per-token features and their mask.
        """

    @abstractmethod
    def blocks(self) -> list[Block]:
        """Return the encoder's blocks in depth order; together they own every parameter."""

    def preparation(self) -> dict[str, Any]:
        """Return how inputs must be, or were in pretraining, prepared, as far as it is known.

        The keys are those of the data's settings for `modality`, such as ``size``,
        ``interpolation`` or ``sample_rate_hz``; the data follows them where the user sets nothing.
        """
        return {}

    def prepare_like(self, other: "Encoder") -> None:
        """Take over how another one, whose weights this gets, treats its inputs."""

    def no_weight_decay(self) -> set[str]:
        """Return names of parameters (as in `named_parameters`) that must not be decayed.

        Vectors (biases, norms) are excluded by their rank already; these are further ones, such
        as position embeddings and class tokens.
        """
        return set()

    def new_parameters(self) -> set[str]:
        """Return names of parameters that pretrained weights did not bring: a learned pooling."""
        pool = getattr(self, "pool", None)
        if not self.is_pretrained or not isinstance(pool, nn.Module):
            return set()
        return {f"pool.{name}" for name, _ in pool.named_parameters()}

    @abstractmethod
    def set_checkpointing(self, enabled: bool) -> None:
        """Recompute the repeated blocks in backward instead of keeping their activations."""

    @abstractmethod
    def rebuild_args(self) -> dict[str, Any]:
        """Return arguments of ``__init__`` that rebuild the architecture without a checkpoint.

        They name no hub and no weight file, so that what was trained can be loaded from its own
        checkpoint alone.
        """
