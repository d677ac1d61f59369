"""SigLIP's loss over any set of modality pairs.

Shapes as in `mmlight.batch`: B samples of this rank, P pairs, D joint width; C columns, which are
the samples of all ranks if they are gathered.
"""

import math

import torch
from torch import Tensor, nn

from mmlight.errors import UserError
from mmlight.objectives.columns import Ranks
from mmlight.objectives.pair_objective import LogitsDtype, PairObjective, Part
from mmlight.objectives.pair_sigmoid import pair_sigmoid
from mmlight.objectives.pairs import Positives, Samples
from mmlight.objectives.tiles import Tiling


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
        positives: ``sample``: only the same sample, with all of its captions; ``caption``: also
            samples with an equal caption; ``label``: also samples with an equal label.
        init_scale: what similarities are multiplied by at the start.
        init_bias: what is then added; the default offsets the many negatives.
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
        ranks: Ranks = "gather",
        tile: int | None = None,
    ) -> None:
        super().__init__(
            pairs=pairs, positives=positives, logits_dtype=logits_dtype, ranks=ranks, tile=tile
        )
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
        """Return the sum over this rank's rows and all columns; see `PairObjective.part`."""
        sums = pair_sigmoid(
            row_BD,
            column_CD,
            self.log_scale[number].exp(),
            self.bias[number],
            samples=samples,
            tiling=tiling,
            hits_of="rows" if first_is_row else "columns",
        )
        divisor = samples.valid_G.sum().clamp(min=1)
        return Part(loss=sums.loss / divisor, accuracy=sums.hits / divisor)

    def learned(self) -> dict[str, Tensor]:
        """Return the scales and biases."""
        return {"scale": self.log_scale.detach().exp(), "bias": self.bias.detach().clone()}
