"""The loss of each source of a mixture, from what its samples add to a batch's loss.

Shapes as in `mmlight.batch`: B samples of this rank; S sources; M means that the
loss is the sum of.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmlight import comm
from mmlight.objectives.objective import Loss, Terms


def source_losses(loss: Loss, sources: Sequence[str], names: Sequence[str]) -> dict[str, Tensor]:
    """Return ``NAME/loss`` of the sources that the global batch has samples of.

    A loss of several means is the sum of those that a source has a part of. Where it is not known
    what each sample adds, only that of a batch of one source is. Every rank calls it, and gets the
    same; a lone process gets its own.

    Args:
        loss: of the batch.
        sources: the source of each sample of this rank.
        names: all sources, the same on every rank.
    """
    source_B = torch.tensor([names.index(name) for name in sources], device=loss.value.device)
    each = [Terms(torch.ones_like(source_B), torch.ones_like(source_B))]
    is_known = bool(loss.terms) and all(
        term.sample is not None or len(term.total) == len(sources) for term in loss.terms
    )
    terms = loss.terms if is_known else each
    sums = torch.stack([_by_source(term, source_B, num_sources=len(names)) for term in terms])
    total_SM, count_SM = comm.all_reduce_sum(sums).movedim(0, 2).unbind()
    there = [number for number, counts in enumerate(count_SM.tolist()) if any(counts)]
    if is_known:
        mean_S = (total_SM / count_SM).where(count_SM > 0, 0.0).sum(1).cpu()
        return {f"{names[n]}/loss": mean_S[n] for n in there}
    return {f"{names[there[0]]}/loss": loss.value.detach()} if len(there) == 1 else {}


def _by_source(terms: Terms, source_B: Tensor, *, num_sources: int) -> Tensor:
    """Return the totals and the counts of each source (2, S)."""
    total = terms.total.to(source_B.device, torch.float64)
    count = terms.count.to(total).expand(total.shape)
    source = source_B if terms.sample is None else source_B[terms.sample.clamp(min=0)]
    source = source.view(*source.shape, *[1] * (total.dim() - source.dim())).expand(total.shape)
    sums = total.new_zeros(2, num_sources)
    sums[0].index_add_(0, source.flatten(), total.flatten())
    sums[1].index_add_(0, source.flatten(), count.flatten())
    return sums
