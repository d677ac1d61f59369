"""Connectionist temporal classification: a loss for a transcript without timing.

Shapes: B clips of this rank, L frames, S symbols of the longest transcript, K classes (the symbols
and the blank).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlight import comm
from mmlight.objectives.objective import Loss, mean_loss
from mmlight.text.symbols import Transcripts
from mmlight.trainer.internals import FakeTensor


class Ctc(nn.Module):
    """-log p(transcript | frames), summed over all alignments (Graves et al., ICML 2006, eq. 8).

    A clip's loss is divided by the number of its symbols, so that a long transcript weighs no more
    than a short one; the mean is over all ranks' clips.

    A transcript that needs more frames than its clip has is impossible: its loss would be infinite.
    Such clips are left out, and counted in the log as ``impossible``. (torch's own mean with
    ``zero_infinity`` counts them as clips without loss.)

    Args:
        blank: the class that says nothing.
    """

    def __init__(self, *, blank: int) -> None:
        super().__init__()
        self.blank = blank

    def forward(
        self, logits_BLK: Tensor, frames_B: Tensor, target: Transcripts, *, counted_B: Tensor
    ) -> Loss:
        """Return the loss of the global batch.

        Every rank calls it in every step.

        Args:
            logits_BLK: the model's answers; float32 inside.
            frames_B: int64, real frames of each clip; they come first.
            target: what was said.
            counted_B: bool, clips whose transcript is known; the others do not count.
        """
        used_B = counted_B & (target.frames_needed() <= frames_B)
        loss_B = clip_losses(logits_BLK, frames_B, target, blank=self.blank)
        # Not a product: what does not count may be infinite.
        loss_B = torch.where(used_B, loss_B / target.length_B.clamp(min=1), 0.0)
        impossible = (counted_B & ~used_B).sum()
        value = comm.all_reduce_sum(impossible.to(loss_B.dtype))
        return mean_loss(loss_B, used_B, {"impossible": value})


def clip_losses(logits_BLK: Tensor, frames_B: Tensor, target: Transcripts, *, blank: int) -> Tensor:
    """Return -log p(transcript) of each clip (B,), float32; 0 where it is impossible.

    Args:
        logits_BLK: the model's answers.
        frames_B: real frames of each clip.
        target: what was said.
        blank: the class that says nothing.
    """
    # Half precision sums over alignments would lose most of them.
    with torch.autocast(logits_BLK.device.type, enabled=False):
        precise = logits_BLK if logits_BLK.dtype == torch.float64 else logits_BLK.float()
        if isinstance(precise, FakeTensor):  # alignments cannot be counted without values
            return -precise.log_softmax(-1).mean((1, 2))
        return F.ctc_loss(
            precise.log_softmax(-1).transpose(0, 1),
            target.symbol_BS,
            frames_B,
            target.length_B,
            blank=blank,
            reduction="none",
            zero_infinity=True,
        )
