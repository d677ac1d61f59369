"""Steps whose gradient is not finite: left out where they would spoil the weights, and counted."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_, get_total_norm
from torch.optim import Adam, AdamW, Optimizer


class FiniteSteps:
    """Looks at each step's gradients before the optimiser does.

    Ranks need not agree: what they hold has been averaged over all of them, or its norm has been
    summed, so that one rank's NaN is everybody's. On a GPU the fused kernel reads a flag there, as
    float16's loss scaling has it do, and nothing is waited for; other optimisers are waited for.
    """

    def __init__(self) -> None:
        self._in_a_row = self._total = 0
        self._counts_2: Tensor | None = None
        self._bad_loss: Tensor | None = None

    def clip(self, optimizer: Optimizer, *, most: float, by_value: bool = False) -> None:
        """Clip the gradients, and see to it that the optimiser does nothing if any is not finite.

        Args:
            optimizer: the optimiser, before its step.
            most: the largest norm or value; 0 clips nothing.
            by_value: clip each number rather than all gradients together.
        """
        parameters = [
            p for group in optimizer.param_groups for p in group["params"] if p.grad is not None
        ]
        if not parameters:
            return
        norm = get_total_norm([p.grad for p in parameters])
        if most > 0 and by_value:
            clip_grad_value_(parameters, most)
        elif most > 0:
            clip_grads_with_norm_(parameters, most, norm)
        if self._can_flag(optimizer, norm):
            self._flag(optimizer, norm)
            return
        is_finite = math.isfinite(float(norm.full_tensor() if isinstance(norm, DTensor) else norm))
        if not is_finite:
            for parameter in parameters:
                parameter.grad = None  # an optimiser passes over what has none
        self.count(is_finite=is_finite)

    def count(self, *, is_finite: bool) -> None:
        """Count a step."""
        self._in_a_row = 0 if is_finite else self._in_a_row + 1
        self._total += not is_finite

    def read(self) -> tuple[int, int]:
        """Return how many steps were left out: the last ones in a row, and all of this start.

        It waits for a GPU.
        """
        if self._counts_2 is None:
            return self._in_a_row, self._total
        in_a_row, total = self._counts_2.tolist()
        return int(in_a_row), int(total)

    def note_loss(self, loss: Tensor) -> None:
        """Note a batch's loss, where gradients that are not finite are a matter of their scale.

        Args:
            loss: the loss before backward, scaled.
        """
        bad = ~loss.detach().isfinite()
        self._bad_loss = bad if self._bad_loss is None else self._bad_loss | bad

    def count_losses(self) -> None:
        """Count a step by the losses of its batches."""
        if self._bad_loss is not None:
            self._add(self._bad_loss.float())
        self._bad_loss = None

    @staticmethod
    def _can_flag(optimizer: Optimizer, norm: Tensor) -> bool:
        """Return whether the optimiser reads a flag on a device that is not to be waited for."""
        groups: list[dict[str, Any]] = optimizer.param_groups
        is_fused = isinstance(optimizer, Adam | AdamW) and all(
            group.get("fused") for group in groups
        )
        return is_fused and norm.is_cuda and not isinstance(norm, DTensor)

    def _flag(self, optimizer: Any, norm: Tensor) -> None:
        bad = (~norm.isfinite()).float()
        # Where loss scaling puts them; the kernel neither updates nor counts the step.
        optimizer.grad_scale, optimizer.found_inf = None, bad
        self._add(bad)

    def _add(self, bad: Tensor) -> None:
        if self._counts_2 is None:
            self._counts_2 = torch.zeros(2, device=bad.device)
            self._kept_2 = torch.tensor([0.0, 1.0], device=bad.device)
        # In a row: (n + bad) * bad; in all: n + bad.
        self._counts_2 = (self._counts_2 + bad) * torch.maximum(self._kept_2, bad)
