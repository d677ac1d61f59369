"""Explanations from gradients: integrated gradients and Grad-CAM.

Shapes: B samples, D features; R rows and K columns of a canvas.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmlight.encoders.canvas import TokenGrid
from mmlight.encoders.encoder import Encoder
from mmlight.errors import UserError
from mmlight.insight.subject import Subject
from mmlight.insight.units import lay_over

# A coarser map than this tells nothing about where.
_LEAST_PLACES = 16
_FIRST_STEPS = 32
_TOLERANCE = 0.01


@dataclass(frozen=True)
class Integrated:
    """Integrated gradients of one sample.

    Attributes:
        map_RK: attributions, summed over channels or embedding features.
        gap: |sum of attributions - (score - score of the blank)| as a part of that difference.
        num_steps: points that it took.
    """

    map_RK: Tensor
    gap: float
    num_steps: int


def integrated_gradients(subject: Subject, blank: Tensor, *, most_steps: int = 512) -> Integrated:
    """Share the score's difference to a blank sample out over the places (arXiv 1703.01365).

    Computed by captum, with Gauss-Legendre points on the straight line between the two. Their sum
    must be the difference (completeness); a model that changes its mind within a short stretch of
    the line needs many points, so their number is doubled until the sum is right to 1 %.

    Args:
        subject: the sample and the question.
        blank: the baseline, laid out as the sample's canvas.
        most_steps: most points.
    """
    from captum.attr import IntegratedGradients

    values = subject.canvas.values
    with torch.no_grad():
        ends = subject.score(torch.cat([values, blank]))
    difference = float(ends[0] - ends[1])
    num_steps = min(_FIRST_STEPS, most_steps)
    while True:
        with torch.enable_grad():
            attributions = IntegratedGradients(subject.score).attribute(
                values,
                baselines=blank,
                n_steps=num_steps,
                internal_batch_size=min(subject.batch_size, num_steps),
            )
        gap = abs(float(attributions.sum()) - difference) / max(abs(difference), 1e-6)
        if gap <= _TOLERANCE or num_steps == most_steps:
            map_RK = subject.canvas.to_map(attributions.detach()).float()[0]
            return Integrated(map_RK, gap, num_steps)
        num_steps = min(2 * num_steps, most_steps)


def grad_cam(subject: Subject) -> Tensor:
    """Return the Grad-CAM map (R, K) of the deepest layer that still tells places apart.

    The layer's channels, weighted by their mean gradient, and what is above zero of their sum
    (arXiv 1610.02391, equations 1 and 2). For a transformer its tokens are the places; a layer
    whose places get no gradient (the last one under a class token) is passed over, and so is one
    with fewer than 16 places where another has more.

    Args:
        subject: the sample and the question.

    Raises:
        UserError: an encoder without such a layer (CLAP).
    """
    encoder = subject.encoder
    with torch.enable_grad(), _block_outputs(encoder) as outputs:
        score = subject.score(subject.canvas.values.clone().requires_grad_())
        # A copy: checkpointed blocks run again in backward.
        found = [output for output in outputs if output.requires_grad]
        gradients: Sequence[Tensor | None] = torch.autograd.grad(
            score.sum(), found, allow_unused=True
        )
    grid = encoder.token_grid(subject.canvas)
    maps: list[Tensor] = []
    for output, gradient in zip(found, gradients, strict=True):
        if gradient is None:
            continue
        map_BDRK, slope_BDRK = as_map(encoder, output, grid), as_map(encoder, gradient, grid)
        if map_BDRK is None or slope_BDRK is None or not slope_BDRK.any():
            continue
        weight_BD11 = slope_BDRK.mean((2, 3), keepdim=True)
        maps.append((weight_BD11 * map_BDRK).sum(1)[0].clamp(min=0).detach().float())
    if not maps:
        raise UserError(
            f"explain: grad_cam finds no map in a {encoder.network_name}; use integrated_gradients"
        )
    enough = min(_LEAST_PLACES, max(m.numel() for m in maps))
    deepest = next(m for m in reversed(maps) if m.numel() >= enough)
    return lay_over(deepest, subject.canvas, smooth=grid is None)


def as_map(encoder: Encoder, activation: Tensor, grid: TokenGrid | None) -> Tensor | None:
    """Lay a block's output out as a map (B, D, R, K), or return None where it is none.

    Args:
        encoder: the encoder that the block belongs to.
        activation: tokens (B, L, D), or maps with four axes (see `Encoder.map_layout`).
        grid: the encoder's grid, for tokens.
    """
    if activation.ndim == 4 and encoder.map_layout is not None:
        return activation.permute(0, 3, 1, 2) if encoder.map_layout == "NHWC" else activation
    if activation.ndim != 3 or grid is None or activation.shape[1] != grid.num_tokens:
        return None
    tokens_BDL = activation[:, grid.prefix :].transpose(1, 2)
    return tokens_BDL.unflatten(2, (grid.rows, grid.columns))


@contextmanager
def _block_outputs(encoder: Encoder) -> Iterator[list[Tensor]]:
    outputs: list[Tensor] = []

    def keep(module: Any, args: Any, output: Any) -> None:
        value = output[0] if isinstance(output, tuple) else output
        if isinstance(value, Tensor):
            outputs.append(value)

    handles = [
        module.register_forward_hook(keep) for block in encoder.blocks() for module in block.modules
    ]
    try:
        with torch.compiler.set_stance("force_eager"):
            yield outputs
    finally:
        for handle in handles:
            handle.remove()
