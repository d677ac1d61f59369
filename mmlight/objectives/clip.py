"""CLIP's loss over any set of modality pairs.

Shapes as in `mmlight.batch`: B samples of this rank, P pairs, D joint width; C columns, which are
the samples of all ranks if they are gathered.
"""

import math

import torch
from torch import Tensor, nn

from mmlight.errors import UserError
from mmlight.objectives.columns import Ranks
from mmlight.objectives.infonce import infonce
from mmlight.objectives.pair_objective import LogitsDtype, PairObjective, Part
from mmlight.objectives.pairs import Positives, Samples
from mmlight.objectives.tiles import Tiling


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
        pairs: weights by pair, such as ``{image-text: 1.0, image-audio: 0.5}``. The loss is their
            mean by weight. None is every pair of the towers, with equal weights.
        positives: ``sample``: only the same sample, with all of its captions; ``caption``: also
            samples with an equal caption; ``label``: also samples with an equal label.
        init_temperature: what similarities are divided by at the start, at least 1 / `max_scale`.
        max_scale: upper bound of 1 / temperature, kept after each step.
        learn_temperature: False keeps the temperature where it starts.
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

    def __init__(
        self,
        *,
        pairs: dict[str, float] | None = None,
        positives: Positives = "sample",
        init_temperature: float = 0.07,
        max_scale: float = 100.0,
        learn_temperature: bool = True,
        logits_dtype: LogitsDtype = "float32",
        ranks: Ranks = "gather",
        tile: int | None = None,
    ) -> None:
        super().__init__(
            pairs=pairs, positives=positives, logits_dtype=logits_dtype, ranks=ranks, tile=tile
        )
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
        """Return this rank's part of both cross entropies; see `PairObjective.part`."""
        scale = self.log_scale[number].exp()
        sums = infonce(row_BD, column_CD, scale, samples=samples, tiling=tiling)
        divisor = 2 * samples.valid_G.sum().clamp(min=1)
        return Part(loss=sums.loss / divisor, accuracy=sums.hits / divisor)

    def learned(self) -> dict[str, Tensor]:
        """Return the scales, 1 / temperature."""
        return {"scale": self.log_scale.detach().exp()}

    @torch.no_grad()
    def after_step(self) -> None:
        """Clamp log_scale to [0, ln max_scale], as open_clip does."""
        self.log_scale.clamp_(0.0, self._max_log_scale)
