"""CLIP's loss over any set of modality pairs: both directions in one pass over tiles.

Shapes as in `mmlight.batch`: B samples of this rank, G of all ranks, P pairs, D joint width; C
columns held at a time (all G if they are gathered), R x S samples of a tile.

Forward goes once over the tiles and keeps the log-sum-exp of each row and each column; backward
makes each tile again. That is 8 * B * G * D FLOPs, where autograd takes 6 and writes several B x G
matrices; a step is faster all the same, because a tile stays in the cache.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from mmlight import comm
from mmlight.errors import UserError
from mmlight.objectives.exchange import RingBlocks
from mmlight.objectives.pair_objective import PairObjective, Part
from mmlight.objectives.pairs import Samples
from mmlight.objectives.tiles import Running, Similarities, Tiling, maxima


class Clip(PairObjective):
    """Symmetric InfoNCE with a learned temperature for each pair (arXiv 2103.00020, figure 3).

    Departs from the paper in that samples which miss a modality are left out of that pair's rows
    and columns, that a sample may have several positives (cross entropy against the uniform
    distribution over them, as in arXiv 2004.11362 equation 2), and that several pairs are averaged
    by weight.

    Logs, for each pair: ``loss/image-text``, ``scale/image-text`` (1 / temperature) and
    ``accuracy/image-text`` (share of samples whose most similar one in the batch is a positive,
    mean of both directions).

    Args:
        init_temperature: what similarities are divided by at the start, at least 1 / `max_scale`.
        max_scale: upper bound of 1 / temperature, kept after each step.
        learn_temperature: False keeps the temperature where it starts.
        settings: those of `PairObjective`.

    Raises:
        UserError: a value out of its range; in `build`, a pair without towers.
    """

    log_scale: nn.Parameter

    def __init__(
        self,
        *,
        init_temperature: float = 0.07,
        max_scale: float = 100.0,
        learn_temperature: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        if not (1.0 < max_scale < math.inf):
            raise UserError(f"max_scale: {max_scale} must be finite and above 1 (usual is 100)")
        # A hair of tolerance: 0.01 is 1 / 100 in decimal, not in binary.
        if not (1.0 / max_scale <= init_temperature * (1 + 1e-9) and init_temperature <= 1.0):
            raise UserError(
                f"init_temperature: {init_temperature} is outside [1 / max_scale, 1] = "
                f"[{1.0 / max_scale:g}, 1], where it would be clamped after the first step"
            )
        self._init_log_scale = math.log(1.0 / init_temperature)
        self._max_log_scale = math.log(max_scale)
        self._learn_temperature = learn_temperature

    def create_parameters(self, num_pairs: int) -> None:
        """Create log_scale (P,)."""
        self.log_scale = nn.Parameter(torch.empty(num_pairs), requires_grad=self._learn_temperature)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the temperatures to their start (also called after building on the meta device)."""
        nn.init.constant_(self.log_scale, self._init_log_scale)

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
        """Return this rank's part of both cross entropies; see `PairObjective.part`.

        A row's is taken against the uniform distribution over its positives. Backward adds the
        gradients of all columns that meet this rank's rows, also of those whose loss another rank
        counts, so all ranks call it with the same incoming gradient.
        """
        scale = self.log_scale[number].exp()
        loss, hits, loss_B = _InfoNce.apply(row_BD, column_CD, scale, samples, tiling)
        divisor = 2 * samples.valid_G.sum().clamp(min=1)
        return Part(torch.stack([loss / divisor, hits / divisor]), loss_B / 2)

    def learned(self) -> dict[str, Tensor]:
        """Return the scales, 1 / temperature."""
        return {"scale": self.log_scale.detach().exp()}

    @torch.no_grad()
    def after_step(self) -> None:
        """Clamp log_scale to [0, ln max_scale], as open_clip does."""
        self.log_scale.clamp_(0.0, self._max_log_scale)


class _InfoNce(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        row_BD: Tensor,
        column_CD: Tensor,
        scale: Tensor,
        samples: Samples,
        tiling: Tiling,
    ) -> tuple[Tensor, Tensor, Tensor]:
        similarities = Similarities(row_BD, scale, samples=samples, tiling=tiling)
        rows = Running.start(row_BD, len(row_BD))
        positive_B = torch.zeros_like(row_BD[:, 0])
        columns = Running.start(column_CD, len(column_CD))
        blocks = RingBlocks(fixed=[column_CD], changing=[columns.state_3N], ranks=tiling.ranks)
        for first in blocks:
            block_CD, state_3C = blocks.held
            _meet(similarities, block_CD, first, rows, Running(state_3C), positive_B)
        columns = Running(blocks.held[1])
        if tiling.ranks == "gather":
            columns = _over_ranks(columns)
        valid_B = samples.local(samples.valid_G)
        own = slice(samples.start, samples.start + samples.size)
        everywhere = len(column_CD) == len(samples.valid_G)
        valid_C = samples.valid_G if everywhere else valid_B
        own_C = own if everywhere else slice(None)
        # Where a sample doesn't count, exp(similarity - inf) makes its gradients zero.
        row_B = rows.log_sum_exp().masked_fill_(~valid_B, torch.inf)
        column_C = columns.log_sum_exp().masked_fill_(~valid_C, torch.inf)
        # Positives go both ways, so the columns' positives add up to the same sum as the rows'.
        positive_B /= samples.num_positives()
        loss_B = row_B - positive_B + (column_C[own_C] - positive_B)
        loss_B = torch.where(valid_B, loss_B, 0.0)
        loss = loss_B.sum()
        hits_B = rows.hits().long() + columns.hits()[own_C]
        hits = torch.where(valid_B, hits_B, 0).sum().to(loss.dtype)
        ctx.save_for_backward(row_BD, column_CD, scale, row_B, column_C)
        ctx.samples, ctx.tiling = samples, tiling
        ctx.mark_non_differentiable(hits, loss_B)
        return loss, hits, loss_B

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        row_BD, column_CD, scale, row_B, column_C = ctx.saved_tensors
        samples, tiling = ctx.samples, ctx.tiling
        similarities = Similarities(row_BD, scale, samples=samples, tiling=tiling)
        row_grad_BD = torch.zeros_like(row_BD)
        scale_grad = torch.zeros_like(scale, dtype=row_BD.dtype)
        # What positives take off, once for each direction.
        share_B = 2 * samples.local(samples.valid_G).to(row_BD.dtype) / samples.num_positives()
        column_grad_CD = torch.zeros_like(column_CD, memory_format=torch.contiguous_format)
        blocks = RingBlocks(
            fixed=[column_CD, column_C], changing=[column_grad_CD], ranks=tiling.ranks
        )
        for first in blocks:
            block_CD, log_sum_C, grad_CD = blocks.held
            for rows in similarities.strips(len(block_CD)):
                strip_RD = similarities.scaled(rows)
                sent_RD = strip_RD * grads[0]
                strip_grad_RD = torch.zeros_like(strip_RD)
                for tile in similarities.tiles(rows, len(block_CD), first=first):
                    columns = tile.columns
                    logits_RS = similarities.logits(strip_RD, block_CD[columns], tile)
                    weight_RS = similarities.spare(tile)
                    torch.sub(logits_RS, row_B[rows, None], out=weight_RS).exp_()
                    weight_RS += logits_RS.sub_(log_sum_C[columns]).exp_()
                    positive_RS = similarities.positive(tile)
                    if positive_RS is None:
                        weight_RS.diagonal(tile.own).sub_(share_B[rows][tile.own_rows])
                    else:
                        torch.mul(positive_RS, share_B[rows, None], out=logits_RS)
                        weight_RS -= logits_RS
                    similarities.add_product(strip_grad_RD, weight_RS, block_CD[columns])
                    similarities.add_product(grad_CD[columns], weight_RS.T, sent_RD)
                strip_grad_RD *= grads[0]
                similarities.add_row_grads(rows, strip_grad_RD, row_grad_BD, scale_grad)
        return row_grad_BD, blocks.held[2], scale_grad.to(scale.dtype), None, None


def _meet(
    similarities: Similarities,
    block_CD: Tensor,
    first: int,
    rows: Running,
    columns: Running,
    positive_B: Tensor,
) -> None:
    """Take a block of columns into the statistics of rows and columns."""
    for part in similarities.strips(len(block_CD)):
        strip_RD = similarities.scaled(part)
        for tile in similarities.tiles(part, len(block_CD), first=first):
            logits_RS = similarities.logits(strip_RD, block_CD[tile.columns], tile)
            spare_RS = similarities.spare(tile)
            positive_RS = similarities.positive(tile)
            seen = maxima(logits_RS, tile, positive_RS=positive_RS, spare_RS=spare_RS)
            if positive_RS is None:
                positive_B[part][tile.own_rows] += logits_RS.diagonal(tile.own)
            else:
                positive_B[part] += torch.mul(logits_RS, positive_RS, out=spare_RS).sum(1)
            # A running maximum costs 2 % of forward; a fixed shift would overflow or lose digits.
            largest_R = rows.raise_to(part, seen[0])
            largest_S = columns.raise_to(tile.columns, seen[1])
            torch.sub(logits_RS, largest_R[:, None], out=spare_RS)
            rows.state_3N[2, part] += spare_RS.exp_().sum(1)
            columns.state_3N[2, tile.columns] += logits_RS.sub_(largest_S).exp_().sum(0)


def _over_ranks(columns: Running) -> Running:
    """Return the statistics of columns over the rows of all ranks; every rank calls it."""
    maxima_2C = comm.all_reduce_max(columns.state_3N[:2])
    rescaled_C = columns.state_3N[2] * (columns.largest() - maxima_2C.amax(0)).exp_()
    total_C = comm.all_reduce_sum(rescaled_C)
    return Running(torch.cat([maxima_2C, total_C[None]]))
