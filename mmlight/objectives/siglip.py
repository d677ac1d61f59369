"""SigLIP's loss over any set of modality pairs.

Shapes as in `mmlight.batch`: B samples of this rank, G samples of all ranks, P pairs, D joint
width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlight.batch import MODALITIES, Modality
from mmlight.errors import UserError
from mmlight.objectives.pair_objective import (
    LogitsDtype,
    PairObjective,
    Part,
    count_hits,
    similarity,
)
from mmlight.objectives.pairs import Positives, Rows


class SigLip(PairObjective):
    """Pairwise sigmoid loss with a learned scale and bias for each pair (arXiv 2303.15343, eq. 1).

    Every two samples are a yes-or-no question; the sum over all is divided by the number of
    samples, as in the paper. Samples that miss a modality are left out of that pair's rows and
    columns; several pairs are averaged by weight.

    Logs, for each pair: ``loss/image-text``, ``scale/image-text``, ``bias/image-text`` and
    ``accuracy/image-text`` (share of samples whose most similar one in the batch is a positive,
    from the pair's first modality to its second).

    Args:
        pairs: weights by pair, such as ``{image-text: 1.0, image-audio: 0.5}``. The loss is their
            mean by weight. None is every pair of the towers, with equal weights.
        positives: ``sample``: only the same sample; ``caption``: also samples with an equal
            caption; ``label``: also samples with an equal label.
        init_scale: what similarities are multiplied by at the start.
        init_bias: what is then added; the default offsets the many negatives.
        logits_dtype: ``float32`` computes similarities in float32 even under autocast;
            ``autocast`` multiplies in autocast's 16 bits, faster and with a larger gradient error.

    Raises:
        UserError: a value out of its range; in `build`, a pair without towers.
    """

    log_scale: nn.Parameter
    bias: nn.Parameter

    def __init__(
        self,
        *,
        pairs: dict[str, float] | None = None,
        positives: Positives = "sample",
        init_scale: float = 10.0,
        init_bias: float = -10.0,
        logits_dtype: LogitsDtype = "float32",
    ) -> None:
        super().__init__(pairs=pairs, positives=positives, logits_dtype=logits_dtype)
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

    def column_modalities(self) -> tuple[Modality, ...]:
        """Return the second modality of each pair: one direction holds every question."""
        return tuple(m for m in MODALITIES if any(m == p.second for p in self.pairs))

    def part(
        self,
        number: int,
        row_features: dict[Modality, Tensor],
        column_features: dict[Modality, Tensor],
        rows: Rows,
    ) -> Part:
        """Return the sum over this rank's rows and all columns; see `PairObjective.part`."""
        pair = self.pairs[number]
        valid_G = rows.valid_G(pair)
        scaled_BD = self.log_scale[number].exp() * row_features[pair.first]
        logits_BG = similarity(scaled_BD, column_features[pair.second]) + self.bias[number]
        # logsigmoid of the signed logit keeps every digit; softplus(x) - x would not.
        loss_BG = -F.logsigmoid(torch.where(rows.positive_BG, logits_BG, -logits_BG))
        counted_BG = rows.local(valid_G)[:, None] & valid_G[None, :]
        divisor = valid_G.sum().clamp(min=1)
        masked_BG = logits_BG.detach().masked_fill(~valid_G, -torch.inf)
        return Part(
            loss=torch.where(counted_BG, loss_BG, 0.0).sum() / divisor,
            accuracy=count_hits(masked_BG, rows=rows, valid_G=valid_G) / divisor,
        )

    def learned(self) -> dict[str, Tensor]:
        """Return the scales and biases."""
        return {"scale": self.log_scale.detach().exp(), "bias": self.bias.detach().clone()}
