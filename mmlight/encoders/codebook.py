"""A codebook whose vectors follow, as moving averages, what is put to them.

Shapes: M vectors, K codes, D features.
"""

import torch
from torch import Tensor, nn

from mmlight import comm
from mmlight.errors import UserError
from mmlight.trainer.internals import FakeTensor

# So many steps lie between two looks at which codes are dead: those that got less than this share
# of an even use since the last.
_RESET_EVERY = 20
_DEAD = 0.03


class Codebook(nn.Module):
    """Replaces vectors by the nearest of K codes (VQ-VAE, arXiv 1711.00937).

    Codes are no parameters: in training each is the moving average of the vectors that it replaced
    (there, appendix A.1), summed over all ranks, so that the codes of any number of ranks are those
    of one process. Codes that nothing is near are put onto vectors of the batch, in the first step
    all of them. Which vectors depends on the step and on those of all ranks, in an order of their
    own, alone.

    Args:
        num_codes: K.
        dim: D.
        decay: share of the old averages that a step keeps.

    Raises:
        UserError: values out of range.
    """

    code_KD: Tensor
    count_K: Tensor
    sum_KD: Tensor
    hit_K: Tensor
    num_steps: Tensor

    def __init__(self, num_codes: int, dim: int, *, decay: float) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise UserError(f"decay: {decay} must be at least 0 and below 1 (0.97, say)")
        self.decay = decay
        self.register_buffer("code_KD", torch.zeros(num_codes, dim))
        self.register_buffer("count_K", torch.zeros(num_codes))
        self.register_buffer("sum_KD", torch.zeros(num_codes, dim))
        self.register_buffer("hit_K", torch.zeros(num_codes))
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.int64))

    def vectors(self, code: Tensor) -> Tensor:
        """Return the vectors of codes (..., D)."""
        return self.code_KD[code]

    @torch.no_grad()
    def nearest(self, vector_MD: Tensor) -> Tensor:
        """Return the code of each vector, int64 (M,)."""
        code_KD = self.code_KD
        vector_MD = vector_MD.detach().to(code_KD.dtype)
        # Of the squared distance, what depends on the code.
        far_MK = torch.addmm(code_KD.square().sum(1)[None], vector_MD, code_KD.T, alpha=-2)
        return far_MK.argmin(1)

    @torch.no_grad()
    def learn(self, vector_MD: Tensor) -> None:
        """Move dead codes onto vectors, where it is time; every rank calls it, with some vectors.

        Args:
            vector_MD: those of this rank that are next looked up.
        """
        vector_MD = vector_MD.detach().to(self.code_KD.dtype)
        if isinstance(self.num_steps, FakeTensor):  # a step is counted that is not done
            return
        step = int(self.num_steps)
        self.num_steps += 1
        if step % _RESET_EVERY == 0:
            self._reset(comm.gather_variable(vector_MD), step=step)

    @torch.no_grad()
    def follow(self, vector_MD: Tensor, code_M: Tensor) -> None:
        """Take the vectors of all ranks into the averages; every rank calls it.

        Args:
            vector_MD: those of this rank.
            code_M: their codes.
        """
        vector_MD = vector_MD.detach().to(self.code_KD.dtype)
        new_KE = self.code_KD.new_zeros(len(self.code_KD), vector_MD.shape[1] + 1)
        ones_M1 = torch.ones_like(vector_MD[:, :1])
        new_KE.index_add_(0, code_M, torch.cat([vector_MD, ones_M1], 1))
        new_KE = comm.all_reduce_sum(new_KE)
        self.hit_K += new_KE[:, -1]
        self.count_K.lerp_(new_KE[:, -1], 1 - self.decay)
        self.sum_KD.lerp_(new_KE[:, :-1], 1 - self.decay)
        known_K1 = self.count_K[:, None] > 1e-6
        mean_KD = self.sum_KD / self.count_K[:, None].clamp(min=1e-6)
        self.code_KD.copy_(torch.where(known_K1, mean_KD, self.code_KD))

    def _reset(self, vector_MD: Tensor, *, step: int) -> None:
        dead_K = self.hit_K <= _DEAD * self.hit_K.mean()
        self.hit_K.zero_()
        draws = torch.Generator().manual_seed(step)
        # In the order of a projection: that of ranks and samples is not the same on other numbers.
        axis_D = torch.randn(vector_MD.shape[1], generator=draws, dtype=torch.float64)
        order_M = (vector_MD.double() @ axis_D.to(vector_MD.device)).argsort(stable=True)
        point_K = torch.rand(len(dead_K), generator=draws, dtype=torch.float64)
        place_K = (point_K * len(vector_MD)).long().to(vector_MD.device)
        new_KD = vector_MD[order_M[place_K]]
        # As if a code had had an even share: it is not dead at once, nor moved by the next vector.
        share = self.count_K.mean().clamp(min=1.0)
        self.code_KD.copy_(torch.where(dead_K[:, None], new_KD, self.code_KD))
        self.sum_KD.copy_(torch.where(dead_K[:, None], new_KD * share, self.sum_KD))
        self.count_K.copy_(torch.where(dead_K, share, self.count_K))
