"""How the next token is chosen from its scores.

Shapes: N sequences, V tokens of the vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mmlight.errors import UserError


@dataclass(frozen=True)
class Sampling:
    """How texts, or images, are generated.

    Args:
        max_new_tokens: most tokens of an answer.
        temperature: scores are divided by it before one is drawn; 0 always takes the likeliest.
        top_k: draw from so many likeliest tokens; None from all.
        top_p: draw from the fewest likeliest tokens that together have this probability
            (arXiv 1904.09751); None from all.
        beams: keep so many best answers while searching; 1 searches none.
        length_penalty: with beams, an answer's log-probability is divided by its number of tokens
            to this power.
        guidance: how much more the prompt counts than it did in training (classifier-free
            guidance, arXiv 2207.12598): 1 as much.
        stop: an answer ends before the first of these texts.
        seed: what is drawn depends on it, on the prompt's number and on the place alone.

    Raises:
        UserError: a value out of range, or one without effect.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    beams: int = 1
    length_penalty: float = 1.0
    guidance: float = 1.0
    stop: Sequence[str] = field(default_factory=list)
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values out of range or without effect."""
        for name in ("max_new_tokens", "top_k", "beams"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} must be 1 or more, not {value}")
        for name in ("temperature", "guidance", "length_penalty"):
            value = getattr(self, name)
            if not math.isfinite(value) or (value < 0 and name != "length_penalty"):
                raise UserError(f"{name} must be 0 or more, not {value}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if self.temperature == 0 and (self.top_k is not None or self.top_p is not None):
            raise UserError("top_k and top_p have an effect only with a temperature above 0")
        if self.beams > 1 and self.temperature > 0:
            raise UserError("beams search for the likeliest answer; leave the temperature out")
        if self.beams == 1 and self.length_penalty != 1:
            raise UserError("length_penalty has an effect only with beams")
        if not all(self.stop):
            raise UserError("stop: an empty text would end every answer")

    def choose(self, logits_NV: Tensor, *, rows: Sequence[int], place: int) -> Tensor:
        """Return the next token of each sequence, int64 (N,).

        Args:
            logits_NV: scores; -inf for what must not come.
            rows: the number of each sequence's prompt, from which its random numbers are made.
            place: how many tokens were generated before.
        """
        if self.temperature == 0:
            return logits_NV.argmax(1)
        precise_NV = logits_NV.double() / self.temperature
        sorted_NV, token_NV = precise_NV.sort(dim=1, descending=True, stable=True)
        if self.top_k is not None:
            sorted_NV[:, self.top_k :] = -torch.inf
        share_NV = sorted_NV.softmax(1)
        if self.top_p is not None:
            before_NV = share_NV.cumsum(1) - share_NV
            share_NV = share_NV.masked_fill(before_NV >= self.top_p, 0)
        upto_NV = share_NV.cumsum(1)
        point_N = torch.tensor([self._uniform(row, place) for row in rows], dtype=torch.float64)
        point_N1 = point_N.to(upto_NV.device)[:, None] * upto_NV[:, -1:]
        chosen_N1 = (upto_NV <= point_N1).sum(1, keepdim=True).clamp(max=upto_NV.shape[1] - 1)
        return token_NV.gather(1, chosen_N1)[:, 0]

    def _uniform(self, row: int, place: int) -> float:
        """Return a number in [0, 1): raw Philox bits, which no version of NumPy changes."""
        bits = np.random.Philox(key=self.seed % 2**64, counter=[0, 0, row, place])
        return float((int(bits.random_raw()) >> 11) * 2.0**-53)
