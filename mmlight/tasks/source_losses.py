"""The loss of each source of a mixture, from what its samples add to a batch's loss.

Shapes as in `mmlight.batch`: B samples of this rank; S sources.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmlight import comm
from mmlight.objectives.objective import Loss


def source_losses(loss: Loss, sources: Sequence[str], names: Sequence[str]) -> dict[str, Tensor]:
    """Return ``NAME/loss`` of the sources that the global batch has samples of.

    Where it is not known what each sample adds, only that of a batch of one source is. Every rank
    calls it, and gets the same; a lone process gets its own.

    Args:
        loss: of the batch.
        sources: the source of each sample of this rank.
        names: all sources, the same on every rank.
    """
    device = loss.value.device
    source_B = torch.tensor([names.index(name) for name in sources], device=device)
    is_known = loss.terms is not None and len(loss.terms[0]) == len(sources)
    terms = loss.terms if loss.terms is not None and is_known else [torch.ones(len(sources))] * 2
    terms_2B = torch.stack([term.detach().to(device, torch.float64) for term in terms])
    sum_2S = terms_2B.new_zeros(2, len(names)).index_add_(1, source_B, terms_2B)
    total_S, count_S = comm.all_reduce_sum(sum_2S).tolist()
    there = [number for number, count in enumerate(count_S) if count]
    if is_known:
        return {f"{names[n]}/loss": torch.tensor(total_S[n] / count_S[n]) for n in there}
    return {f"{names[there[0]]}/loss": loss.value.detach()} if len(there) == 1 else {}
