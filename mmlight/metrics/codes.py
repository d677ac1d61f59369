"""How much of a codebook is in use.

Shapes: S samples, L codes of each, K codes there are.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CodeUse:
    """How much of a codebook is in use.

    Attributes:
        share: codes that occur, of all there are.
        perplexity: the exponential of the entropy of their frequencies: from 1 to K.
    """

    share: float
    perplexity: float


def code_use(codes_SL: Tensor, *, num_codes: int) -> CodeUse:
    """Return how much of a codebook these codes (integers) use."""
    count_K = torch.bincount(codes_SL.flatten().long(), minlength=num_codes).double()
    share_K = count_K / count_K.sum()
    entropy = -torch.special.xlogy(share_K, share_K).sum()
    return CodeUse(float((count_K > 0).double().mean()), float(entropy.exp()))
