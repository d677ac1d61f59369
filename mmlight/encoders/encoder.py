"""The contract every encoder fulfils.

Shapes as in `mmlight.batch`: B samples, L tokens or frames, D feature width.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from mmlight.encoders.canvas import Canvas, TokenGrid
from mmlight.errors import UserError
from mmlight.modality import Modality


@dataclass(frozen=True)
class Encoded:
    """What an encoder returns.

    Attributes:
        pooled: one vector per sample, (B, D); None of an encoder that has no such thing.
        tokens_BLD: one vector per token, patch or frame; None unless asked for.
        mask_BL: bool, True for real tokens; None unless tokens were asked for.
    """

    pooled: Tensor | None
    tokens_BLD: Tensor | None = None
    mask_BL: Tensor | None = None

    @property
    def pooled_BD(self) -> Tensor:
        """One vector per sample, where the encoder `has_pooled`."""
        assert self.pooled is not None, "whoever builds a tower checks has_pooled"
        return self.pooled


@dataclass(frozen=True)
class MapSpec:
    """What one feature map looks like.

    Attributes:
        channels: number of channels C.
        stride: pixels of the image per position.
    """

    channels: int
    stride: int


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
    real ones first; `token_dim` their width where that is not `out_dim`; `max_tokens` the longest
    text; `takes_packed` whether texts may share rows (`Text.sample_NL`) without seeing one another;
    `has_pooled` whether it gives one vector per sample. `outside` names the settings that
    point to a file or to a hub: `rebuild_args` leaves them out, and a checkpoint that sets one is
    refused.

    What explanations ask of an encoder has answers here that suit any. One whose `forward` passes
    what its network reads through `observed` is explained by integrated gradients; `token_grid` or
    `map_layout` bring Grad-CAM, `token_grid` and `explicit_attention` attention and rollout.
    """

    modality: ClassVar[Modality]
    out_dim: int
    is_pretrained: bool = False
    origin: str | None = None
    frame_ms: float | None = None
    token_dim: int | None = None
    max_tokens: int | None = None
    takes_packed: bool = False
    has_pooled: bool = True
    outside: ClassVar[tuple[str, ...]] = ()
    _observer: Callable[[Canvas], Tensor | None] | None = None

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

    def fitted(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights of an encoder that is this one but for the size of its inputs.

        What depends on the size is resized; what cannot be stays as it is, and does not fit.
        """
        return dict(tensors)

    def map_specs(self) -> list[MapSpec]:
        """Return what the maps of `feature_maps` look like, finest first.

        Raises:
            UserError: the encoder has none.
        """
        raise UserError(
            f"model.towers.{self.modality}.encoder: {type(self).__name__} has no feature maps; use "
            "mmlight.encoders.timm_image.TimmImage"
        )

    def feature_maps(self, inputs: Any, *, strides: Sequence[int] | None = None) -> list[Tensor]:
        """Return maps (B, C, H, W) at several strides, finest first, for detection.

        Args:
            inputs: `Images`.
            strides: those wanted, out of `map_specs`; None means all.
        """
        raise NotImplementedError

    def no_weight_decay(self) -> set[str]:
        """Return names of parameters (as in `named_parameters`) that must not be decayed.

        Vectors (biases, norms) are excluded by their rank already; these are further ones, such
        as position embeddings and class tokens.
        """
        return set()

    def new_parameters(self) -> set[str]:
        """Return names of parameters that pretrained weights did not bring: a learned pooling."""
        if not self.is_pretrained or self.learned_pooling is None:
            return set()
        return {f"pool.{name}" for name, _ in self.learned_pooling.named_parameters()}

    def leave_out_pooling(self) -> None:
        """Give up a learned pooling: where only tokens are used, it would get no gradients.

        DDP waits for those of every parameter.
        """

    @property
    def learned_pooling(self) -> nn.Module | None:
        """The module `pool`, where an encoder has one."""
        return dict(self.named_children()).get("pool")

    @abstractmethod
    def set_checkpointing(self, enabled: bool) -> None:
        """Recompute the repeated blocks in backward instead of keeping their activations."""

    @abstractmethod
    def rebuild_args(self) -> dict[str, Any]:
        """Return arguments of ``__init__`` that rebuild the architecture without a checkpoint.

        They name no hub and no weight file, so that what was trained can be loaded from its own
        checkpoint alone.
        """

    @property
    def network_name(self) -> str:
        """What its network is called in messages."""
        return type(getattr(self, "model", self)).__name__

    def observed(
        self,
        values: Tensor,
        *,
        axes: tuple[int | None, int],
        real_B: Tensor | None = None,
        covered_columns: int | None = None,
    ) -> Tensor:
        """Return what the network reads: `values`, or what an explanation puts in their place.

        Args:
            values: float, (B, ...).
            axes: those of rows (None: there is one row) and columns.
            real_B: columns of each sample that hold input; None means all.
            covered_columns: columns that the network's tokens or maps cover; None means all.
        """
        if self._observer is None:
            return values
        columns = values.shape[axes[1]]
        if real_B is None:
            real_B = torch.full((len(values),), columns, device=values.device)
        new = self._observer(Canvas(values, *axes, real_B, covered_columns or columns))
        return values if new is None else new

    @contextmanager
    def observing(self, observer: Callable[[Canvas], Tensor | None]) -> Iterator[None]:
        """Show `observer` what the network reads, and take what it returns in its place."""
        before, self._observer = self._observer, observer
        try:
            yield
        finally:
            if before is None:
                del self._observer
            else:
                self._observer = before

    @property
    def is_observed(self) -> bool:
        """Whether layers must see their inputs sample by sample, for what looks into the model."""
        return self._observer is not None

    @torch.no_grad()
    def read_canvas(self, inputs: Any) -> Canvas:
        """Return what the network reads of `Images`, `Text` or `Audio`, in evaluation mode.

        Raises:
            UserError: an encoder that does not pass it through `observed`.
        """
        seen: list[Canvas] = []
        with eval_mode(self), self.observing(seen.append):
            self(inputs)
        if not seen:
            raise UserError(f"explain: nothing is known of the input of a {type(self).__name__}")
        return replace(seen[0], values=seen[0].values.detach().clone())

    def reading(self, values: Tensor) -> AbstractContextManager[None]:
        """Have the network read other values; it must be called with as many rows as these have.

        Args:
            values: laid out as `Canvas.values`; gradients flow into them.
        """

        def put(canvas: Canvas) -> Tensor:
            old = canvas.values
            assert old.shape == values.shape, f"{tuple(values.shape)} for {tuple(old.shape)}"
            # A copy: some networks write into what they read (wav2vec2 clears padding).
            return values.to(old.dtype).clone()

        return self.observing(put)

    def token_grid(self, canvas: Canvas) -> TokenGrid | None:
        """Return where the tokens lie on what has just been read; None without a fixed grid."""
        return None

    @property
    def map_layout(self) -> Literal["NCHW", "NHWC"] | None:
        """How those outputs of its blocks that have four axes are maps; None: they are none."""
        return None

    def explicit_attention(self) -> AbstractContextManager[list[Tensor]]:
        """Have attention computed step by step, and collect each layer's weights.

        Within the context every call appends (B, H, L, L) per layer to the list that it gives; see
        `mmlight.encoders.attention`.

        Raises:
            UserError: a network without attention.
        """
        raise UserError(f"explain: nothing is known of the attention of a {type(self).__name__}")

    def pooling_weights(self, mask_BL: Tensor) -> Tensor:
        """Return how much of each of the last layer's tokens enters the pooled vector: (B, L).

        Even over real tokens, unless an encoder says otherwise; pooling by maximum or by learned
        attention is taken as even.

        Args:
            mask_BL: True for real tokens; False for those of `TokenGrid.prefix`, which come first.
        """
        return mask_BL.float()


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Put a module and its parts in evaluation mode; afterwards each part is in its own again.

    Args:
        module: some of its parts may be in evaluation mode already (a locked tower).
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            # Not `train()`, which some parts override and which goes down to others.
            part.training = training
