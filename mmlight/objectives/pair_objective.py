"""What losses over pairs of modalities share: settings, ranks, the weighted mean, logs.

Shapes as in `mmlight.batch`: B samples of this rank, G samples of all ranks, P pairs, D joint
width; C is G if columns are gathered, else B.
"""

from abc import abstractmethod
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from mmlight import comm
from mmlight.batch import Batch
from mmlight.errors import UserError
from mmlight.modality import Modality
from mmlight.objectives.exchange import Ranks, column_modalities, fetch_columns, sides
from mmlight.objectives.objective import Encode, Loss, Objective, Terms
from mmlight.objectives.pairs import (
    Pair,
    Positives,
    Samples,
    captions_each,
    gather_rows,
    parse_pairs,
    used_modalities,
)
from mmlight.objectives.tiles import Tiling


def _beside_captions(features: Tensor, modality: Modality, each: int) -> Tensor:
    """Return features with a row for each caption of a sample."""
    return features if modality == "text" or each == 1 else features.repeat_interleave(each, 0)


class Part(NamedTuple):
    """What one pair's samples of this rank add.

    Attributes:
        both_2: their part of the loss and of the accuracy.
        loss_B: the loss of each, not divided; 0 where a sample doesn't count. Detached.
    """

    both_2: Tensor
    loss_B: Tensor


LogitsDtype = Literal["float32", "autocast"]

# Tiles of 512 stay in a CPU's cache: 0.56 of the time of a whole matrix at 16,384 samples. A GPU
# needs larger ones to be busy.
_TILE_ON_CPU = 512
_TILE_ON_GPU = 4096


class PairObjective(Objective):
    """The base of losses over pairs of modalities.

    Each rank compares its own samples in one modality with the samples of all ranks in the other,
    tile by tile, so that the work is divided between ranks, only one modality of a pair is sent,
    and no matrix of all similarities exists.

    Args:
        pairs: weights by pair, such as ``{image-text: 1.0, image-audio: 0.5}``. The loss is their
            mean by weight. None is every pair of the towers, with equal weights.
        positives: ``sample``: only the same sample, with all of its captions; ``caption``: also
            samples with an equal caption; ``label``: also samples with an equal label.
        logits_dtype: ``float32`` computes similarities in float32 even under autocast;
            ``autocast`` multiplies in autocast's 16 bits, faster and with a larger gradient error.
        ranks: how a rank's samples meet those of other ranks. ``gather``: one modality of each
            pair is gathered from all ranks; ``ring``: blocks of one modality travel from rank to
            rank, and no rank ever holds them all: less memory, more messages; ``local``: only
            this rank's samples are compared, with nothing sent: another loss, with fewer
            negatives, whose value is each rank's own.
        tile: similarities are computed in tiles of about tile * tile, which decides speed and
            memory but no result; None: 512 on a CPU, 4,096 on a GPU.

    Raises:
        UserError: a value out of its range; in `build`, a pair without towers.
    """

    def __init__(
        self,
        *,
        pairs: dict[str, float] | None = None,
        positives: Positives = "sample",
        logits_dtype: LogitsDtype = "float32",
        ranks: Ranks = "gather",
        tile: int | None = None,
    ) -> None:
        super().__init__()
        if positives not in ("sample", "caption", "label"):
            raise UserError(f"positives: '{positives}' is none of sample, caption, label")
        if logits_dtype not in ("float32", "autocast"):
            raise UserError(f"logits_dtype: '{logits_dtype}' is neither float32 nor autocast")
        if ranks not in get_args(Ranks):
            raise UserError(f"ranks: '{ranks}' is none of {', '.join(get_args(Ranks))}")
        if tile is not None and tile < 1:
            raise UserError(f"tile: {tile} must be 1 or more (usual is 512 on a CPU)")
        self._weights = pairs
        self._positives: Positives = positives
        self._logits_dtype: LogitsDtype = logits_dtype
        self._ranks: Ranks = ranks
        self._tile = tile
        self.pairs: tuple[Pair, ...] = ()

    @abstractmethod
    def create_parameters(self, num_pairs: int) -> None:
        """Create the learned parameters, of shape (P,): FSDP2 refuses 0-d ones."""

    @abstractmethod
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
        """Return this rank's part of the loss and the accuracy of ``self.pairs[number]``.

        The parts of all ranks add up to both. The accuracy is the share of samples whose most
        similar one is a positive; both are divided by the number of samples of all ranks.

        Args:
            number: which pair, also the index of its learned parameters.
            row_BD: unit-length features of this rank in one modality of the pair.
            column_CD: unit-length features in the other one: (G, D) of all ranks if they are
                gathered, else (B, D) of this rank.
            samples: which samples count, and which are positives.
            tiling: how to go over the similarities.
            first_is_row: whether the rows are of the pair's first modality.
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
        the other pairs' gradients do not jump. With ``ranks: local`` nothing is sent, and value,
        logs and gradients are those of this rank's samples alone.

        Where samples have K captions each, a pair with text compares B * K rows: every caption
        beside its sample's features in the other modality, which all captions of that sample have
        as a positive, and the other way round.

        Args:
            encode: gives (B, D) features of a modality, (B * K, D) of captions; called once for
                each, in a fixed order.
            batch: with the same number of captions for every sample, those of one sample together.

        Raises:
            UserError: the batch lacks a modality, or what `positives` compares.
        """
        assert self.pairs, "build() was not called"
        alone = self._ranks == "local"
        used = used_modalities(self.pairs)
        rows = {
            each: gather_rows(
                batch, modalities=m, positives=self._positives, alone=alone, each=each
            )
            for each, m in self._by_captions(batch).items()
        }
        encoded = {m: encode(m) for m in used}
        device_type = encoded[used[0]].device.type
        tiling = self._tiling(device_type)
        with torch.autocast(device_type, enabled=False):
            features = {m: unit_length(x_BD) for m, x_BD in encoded.items()}
            chosen = column_modalities(self.pairs)
            columns = fetch_columns(features, chosen, ranks=self._ranks)
            parts = []
            terms = []
            for number, pair in enumerate(self.pairs):
                row, column = sides(pair, chosen)
                each = captions_each(batch) if pair.has_text else 1
                samples = rows[each].samples(pair)
                part = self.part(
                    number,
                    _beside_captions(features[row], row, each),
                    _beside_captions(columns[column], column, each),
                    samples=samples,
                    tiling=tiling,
                    first_is_row=row == pair.first,
                )
                parts.append(part.both_2)
                mine_2B = torch.stack([part.loss_B, samples.local(samples.valid_G).to(part.loss_B)])
                terms.append(mine_2B.view(2, batch.size, -1).sum(2) * pair.weight)
            both_2P = torch.stack(parts, dim=1)
            if not alone:
                both_2P = comm.sum_with_grad(both_2P)
            weights_P = both_2P.new_tensor([p.weight for p in self.pairs])
            value = (both_2P[0] * weights_P).sum() / weights_P.sum()
        loss_P, accuracy_P = both_2P.detach().unbind()
        logged = {"loss": loss_P, "accuracy": accuracy_P, **self.learned()}
        logs = {
            f"{name}/{pair.name}": values_P[i]
            for name, values_P in logged.items()
            for i, pair in enumerate(self.pairs)
        }
        total_B, count_B = torch.stack(terms).sum(0)
        return Loss(value=value, logs=logs, terms=(Terms(total_B, count_B),))

    def _by_captions(self, batch: Batch) -> dict[int, tuple[Modality, ...]]:
        """Return the modalities of the pairs whose rows are so many captions of each sample."""
        found: dict[int, list[Pair]] = {}
        for pair in self.pairs:
            found.setdefault(captions_each(batch) if pair.has_text else 1, []).append(pair)
        return {each: used_modalities(tuple(pairs)) for each, pairs in found.items()}

    def _tiling(self, device_type: str) -> Tiling:
        # Under autocast the logits would be bf16: three times the gradient error that bf16
        # features have with float32 products.
        keep_autocast = self._logits_dtype == "autocast" and torch.is_autocast_enabled(device_type)
        usual = _TILE_ON_CPU if device_type == "cpu" else _TILE_ON_GPU
        return Tiling(
            ranks=self._ranks,
            size=self._tile or usual,
            dtype=torch.get_autocast_dtype(device_type) if keep_autocast else None,
        )


# As in F.normalize: what a shorter vector is divided by.
_SHORTEST = 1e-12


def unit_length(x_BD: Tensor) -> Tensor:
    """Return rows of length 1, in float32 or float64; rows of zeros stay zeros.

    The same as `F.normalize` with the same gradient, but backward keeps only the input and holds
    one (B, D) tensor beside the gradients, not four: at 16,384 x 512 in float32 that is 100 MB,
    which is as much as the rest of a tiled loss takes.
    """
    wide_BD = x_BD.to(torch.promote_types(x_BD.dtype, torch.float32))
    unit_BD: Tensor = _UnitLength.apply(wide_BD)
    return unit_BD


class _UnitLength(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BD: Tensor) -> Tensor:
        inverse_B1 = torch.linalg.vector_norm(x_BD, dim=1, keepdim=True).clamp_(min=_SHORTEST)
        inverse_B1.reciprocal_()
        ctx.save_for_backward(x_BD, inverse_B1)
        return x_BD * inverse_B1

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad_BD,) = grads
        x_BD, inverse_B1 = ctx.saved_tensors
        out_BD = torch.mul(grad_BD, x_BD)
        along_B1 = out_BD.sum(1, keepdim=True).mul_(inverse_B1**3)
        # A clamped length does not depend on the vector.
        along_B1.masked_fill_(inverse_B1 >= 1 / _SHORTEST, 0.0)
        torch.mul(x_BD, along_B1.neg_(), out=out_BD)
        return out_BD.addcmul_(grad_BD, inverse_B1)
