"""SigLIP's loss over any set of modality pairs: a sum over tiles, with gradients made in forward.

Shapes as in `mmlight.batch`: B samples of this rank, G of all ranks, P pairs, D joint width; C
columns held at a time (all G if they are gathered), R x S samples of a tile.

A similarity's gradient depends on no other similarity, so the pass that adds up the loss makes the
gradients too and keeps only them: no recomputation, no B x G matrix.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmlight import comm
from mmlight.errors import UserError
from mmlight.objectives.exchange import RingBlocks
from mmlight.objectives.pair_objective import PairObjective, Part
from mmlight.objectives.pairs import Samples
from mmlight.objectives.tiles import Running, Similarities, Tiling, maxima


class SigLip(PairObjective):
    """Pairwise sigmoid loss with a learned scale and bias for each pair (arXiv 2303.15343, eq. 1).

    Every two samples are a yes-or-no question; the sum over all is divided by the number of
    samples, as in the paper. Samples that miss a modality are left out of that pair's rows and
    columns; several pairs are averaged by weight.

    Logs, for each pair: ``loss/image-text``, ``scale/image-text``, ``bias/image-text`` and
    ``accuracy/image-text`` (share of samples whose most similar one in the batch is a positive,
    from the pair's first modality to its second).

    Args:
        init_scale: what similarities are multiplied by at the start.
        init_bias: what is then added; the default offsets the many negatives.
        settings: those of `PairObjective`.

    Raises:
        UserError: a value out of its range; in `build`, a pair without towers.
    """

    log_scale: nn.Parameter
    bias: nn.Parameter

    def __init__(
        self, *, init_scale: float = 10.0, init_bias: float = -10.0, **settings: Any
    ) -> None:
        super().__init__(**settings)
        if not (0.0 < init_scale < math.inf):
            raise UserError(f"init_scale: {init_scale} must be positive and finite (usual is 10)")
        if not math.isfinite(init_bias):
            raise UserError(f"init_bias: {init_bias} must be finite (usual is -10)")
        self._init_log_scale = math.log(init_scale)
        self._init_bias = init_bias

    def create_parameters(self, num_pairs: int) -> None:
        """Create log_scale and bias (P,)."""
        self.log_scale = nn.Parameter(torch.empty(num_pairs))
        self.bias = nn.Parameter(torch.empty(num_pairs))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set scales and biases to their start (also called after building on meta)."""
        nn.init.constant_(self.log_scale, self._init_log_scale)
        nn.init.constant_(self.bias, self._init_bias)

    def part(
        self,
        number: int,
        row_BD: Tensor,
        column_CD: Tensor,
        *,
        samples: Samples,
        tiling: Tiling,
        first_is_row: bool,
    ) -> Part:
        """Return the sum over this rank's rows and all columns; see `PairObjective.part`.

        Without gradients (evaluation, frozen towers) none are computed.
        """
        inputs = (row_BD, column_CD, self.log_scale[number].exp(), self.bias[number])
        # needs_input_grad says True of parameters under no_grad too.
        with_grad = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
        hits_of = "rows" if first_is_row else "columns"
        loss, hits, loss_B = _PairSigmoid.apply(*inputs, samples, tiling, hits_of, with_grad)
        divisor = samples.valid_G.sum().clamp(min=1)
        return Part(torch.stack([loss / divisor, hits / divisor]), loss_B)

    def learned(self) -> dict[str, Tensor]:
        """Return the scales and biases."""
        return {"scale": self.log_scale.detach().exp(), "bias": self.bias.detach().clone()}


Side = Literal["rows", "columns"]


@dataclass(frozen=True)
class _Sweep:
    """What one pass over the similarities adds up.

    Attributes:
        similarities: of this rank's rows.
        bias: 0-d.
        hits_of: which side's maxima are kept.
        loss_B: sums by row.
        row_grad_BD, scale_grad, bias_grad: gradients; None where none are wanted.
    """

    similarities: Similarities
    bias: Tensor
    hits_of: Side
    loss_B: Tensor
    row_grad_BD: Tensor | None
    scale_grad: Tensor
    bias_grad: Tensor

    def meet(
        self, block_CD: Tensor, first: int, *, seen: Running, column_grad_CD: Tensor | None
    ) -> None:
        """Add the loss of this rank's rows and a block of columns, and its gradients.

        Args:
            block_CD: columns.
            first: number of the first of them among all columns.
            seen: maxima of the side of `hits_of`.
            column_grad_CD: is added to, unless None.
        """
        similarities = self.similarities
        for part in similarities.strips(len(block_CD)):
            strip_RD = similarities.scaled(part)
            strip_grad_RD = torch.zeros_like(strip_RD)
            for tile in similarities.tiles(part, len(block_CD), first=first):
                logits_RS = similarities.logits(strip_RD, block_CD[tile.columns], tile)
                logits_RS += self.bias
                spare_RS = similarities.spare(tile)
                positive_RS = similarities.positive(tile)
                best = maxima(logits_RS, tile, positive_RS=positive_RS, spare_RS=spare_RS)
                if self.hits_of == "rows":
                    seen.raise_to(part, best[0])
                else:
                    seen.raise_to(tile.columns, best[1])
                similarities.negate_positives(logits_RS, tile)
                self.loss_B[part] += _softplus(logits_RS, spare_RS).sum(1)
                if column_grad_CD is None:
                    continue
                weight_RS = logits_RS.sigmoid_()
                similarities.negate_positives(weight_RS, tile)
                self.bias_grad.add_(weight_RS.sum())
                similarities.add_product(strip_grad_RD, weight_RS, block_CD[tile.columns])
                similarities.add_product(column_grad_CD[tile.columns], weight_RS.T, strip_RD)
            if self.row_grad_BD is not None:
                similarities.add_row_grads(part, strip_grad_RD, self.row_grad_BD, self.scale_grad)


class _PairSigmoid(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        row_BD: Tensor,
        column_CD: Tensor,
        scale: Tensor,
        bias: Tensor,
        samples: Samples,
        tiling: Tiling,
        hits_of: Side,
        with_grad: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = row_BD.dtype
        sweep = _Sweep(
            similarities=Similarities(row_BD, scale, samples=samples, tiling=tiling),
            bias=bias,
            hits_of=hits_of,
            loss_B=torch.zeros_like(row_BD[:, 0]),
            row_grad_BD=torch.zeros_like(row_BD) if with_grad else None,
            scale_grad=torch.zeros_like(scale, dtype=wide),
            bias_grad=torch.zeros_like(bias, dtype=wide),
        )
        rows = Running.start(row_BD, len(row_BD))
        changing = []
        if hits_of == "columns":
            changing.append(Running.start(column_CD, len(column_CD)).state_3N)
        if with_grad:
            changing.append(torch.zeros_like(column_CD, memory_format=torch.contiguous_format))
        blocks = RingBlocks(fixed=[column_CD], changing=changing, ranks=tiling.ranks)
        for first in blocks:
            sweep.meet(
                blocks.held[0],
                first,
                seen=rows if hits_of == "rows" else Running(blocks.held[1]),
                column_grad_CD=blocks.held[-1] if with_grad else None,
            )
        valid_B = samples.local(samples.valid_G)
        if hits_of == "rows":
            hit_B = rows.hits()
        else:
            columns = blocks.held[1]
            if tiling.ranks == "gather":
                columns = comm.all_reduce_max(columns)
            hit_C = Running(columns).hits()
            hit_B = samples.local(hit_C) if len(hit_C) == len(samples.valid_G) else hit_C
        loss = sweep.loss_B.sum()
        hits = (hit_B & valid_B).sum().to(loss.dtype)
        if with_grad:
            made = (sweep.row_grad_BD, blocks.held[-1], sweep.scale_grad, sweep.bias_grad)
            ctx.save_for_backward(*made)
            ctx.dtypes = scale.dtype, bias.dtype
        ctx.mark_non_differentiable(hits, sweep.loss_B)
        return loss, hits, sweep.loss_B

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        row_BD, column_CD, scale, bias = (saved * grads[0] for saved in ctx.saved_tensors)
        nothing = (None, None, None, None)
        return row_BD, column_CD, scale.to(ctx.dtypes[0]), bias.to(ctx.dtypes[1]), *nothing


def _softplus(x_RS: Tensor, out_RS: Tensor) -> Tensor:
    """Return log(1 + exp(x)) with all its digits.

    F.softplus switches to x at 20, an error of 1e-9 even in float64; F.logsigmoid takes twice as
    long.
    """
    torch.abs(x_RS, out=out_RS).neg_().exp_().log1p_()
    return out_RS.add_(x_RS.clamp(min=0))
