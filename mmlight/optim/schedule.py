"""The learning rate over the steps of a run, as a pure function of the step."""

import math
from dataclasses import dataclass
from typing import Literal

from lightning.pytorch.utilities import rank_zero_only
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from mmlight.errors import UserError
from mmlight.terminal import note


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then a decay, as a factor of the peak learning rate.

    The factor of step s (from 0) of T is set before that step: (s + 1) / W in the W steps of
    warm-up, as in open_clip. Then ``cosine`` and ``linear`` fall to `final_lr_fraction` at T,
    ``rsqrt`` is sqrt(W / (s + 1)) (arXiv 1706.03762, section 5.3) and ``constant`` is 1. A
    cool-down replaces the last steps of the latter two: the factor falls from where it is to
    `final_lr_fraction` at T.

    Args:
        warmup_steps: steps of warm-up; below 1, a fraction of all steps.
        kind: the curve after the warm-up.
        final_lr_fraction: the factor at the end, in [0, 1); for constant and rsqrt the end of
            their cool-down.
        cooldown_steps: steps at the end, for constant and rsqrt; below 1, a fraction of all.
        cooldown_shape: ``linear`` falls evenly, ``sqrt`` as 1 - sqrt(progress) (arXiv 2405.18392),
            ``exponential`` by the same factor in each step (wav2vec 2.0's third stage), ``step`` at
            once (DETR).

    Raises:
        UserError: a value out of its range, or one that would have no effect.
    """

    warmup_steps: int | float = 0.05
    kind: Literal["cosine", "constant", "rsqrt", "linear"] = "cosine"
    final_lr_fraction: float = 0.0
    cooldown_steps: int | float = 0
    cooldown_shape: Literal["linear", "sqrt", "exponential", "step"] = "linear"

    def __post_init__(self) -> None:
        for name in ("warmup_steps", "cooldown_steps"):
            value = getattr(self, name)
            whole = value >= 1 and math.isfinite(value) and value == int(value)
            if not (whole or 0 <= value < 1):
                raise UserError(
                    f"schedule.{name}: {value} must be a whole number of steps, or a fraction of "
                    "all steps below 1"
                )
        if not 0 <= self.final_lr_fraction < 1:
            raise UserError(
                f"schedule.final_lr_fraction: {self.final_lr_fraction} must be in [0, 1)"
            )
        if self.cooldown_shape == "exponential" and not self.final_lr_fraction:
            raise UserError(
                "schedule.final_lr_fraction: an exponential cool-down never reaches 0; set the "
                "fraction that it ends at"
            )
        decays = self.kind in ("cosine", "linear")
        if decays and self.cooldown_steps:
            raise UserError(
                f"schedule.cooldown_steps: has no effect with kind '{self.kind}', which ends at "
                "final_lr_fraction by itself; use kind constant or rsqrt, or 0 steps"
            )
        if not self.cooldown_steps and self.cooldown_shape != "linear":
            raise UserError(
                f"schedule.cooldown_shape: '{self.cooldown_shape}' has no effect without "
                "cooldown_steps"
            )
        if not decays and not self.cooldown_steps and self.final_lr_fraction:
            raise UserError(
                f"schedule.final_lr_fraction: {self.final_lr_fraction} has no effect with kind "
                f"'{self.kind}' and no cooldown_steps"
            )
        if self.kind == "rsqrt" and not self.warmup_steps:
            raise UserError(
                "schedule.warmup_steps: kind 'rsqrt' is sqrt(warmup_steps / step), so it needs "
                "warmup_steps above 0"
            )

    def factor(self, step: int, total_steps: int) -> float:
        """Return what the peak learning rate is multiplied by in `step`.

        Args:
            step: number of the step, from 0; from `total_steps` on, the factor is the final one.
            total_steps: steps of the whole run, T.
        """
        step = min(step, total_steps)
        warmup, cooldown = self._lengths(total_steps)
        if step < warmup:
            return (step + 1) / warmup
        start = total_steps - cooldown
        if cooldown and step >= start:
            progress = (step - start) / cooldown
            return self._cooled(progress, high=self._plateau(start, warmup))
        if self.kind in ("constant", "rsqrt"):
            return self._plateau(step, warmup)
        progress = (step - warmup) / max(1, total_steps - warmup)
        left = (1 + math.cos(math.pi * progress)) / 2 if self.kind == "cosine" else 1 - progress
        return self._between(left, high=1.0)

    def build(self, optimizer: Optimizer, total_steps: int) -> LambdaLR:
        """Return a scheduler to be stepped after each step of the optimiser.

        Args:
            optimizer: its groups' learning rates are the peaks.
            total_steps: steps of the optimiser in the whole run.

        Raises:
            UserError: warm-up and cool-down are longer than the run.
        """
        if total_steps < 1:
            raise UserError(f"schedule: the run has {total_steps} steps; it needs at least 1")
        warmup, cooldown = self._lengths(total_steps)
        if warmup > total_steps and not cooldown:
            # A short run to try things out.
            rank_zero_only(note)(
                f"schedule: {warmup} steps of warm-up are more than the run's {total_steps}: it "
                "ends below the peak learning rate"
            )
        elif warmup + cooldown > total_steps:
            raise UserError(
                f"schedule: {warmup} steps of warm-up and {cooldown} of cool-down are more than "
                f"the run's {total_steps}; lower warmup_steps or cooldown_steps (below 1 they are "
                "fractions of the run)"
            )
        return LambdaLR(optimizer, lambda step: self.factor(step, total_steps))

    def _lengths(self, total_steps: int) -> tuple[int, int]:
        # Rounded down, so that fractions that add up to 1 fit; 0.29 * 100 must not become 28.
        warmup, cooldown = (
            int(value) if value >= 1 else math.floor(value * total_steps + 1e-6)
            for value in (self.warmup_steps, self.cooldown_steps)
        )
        return warmup, cooldown

    def _plateau(self, step: int, warmup: int) -> float:
        if self.kind == "constant":
            return 1.0
        warmup = max(1, warmup)
        return math.sqrt(warmup / max(step + 1, warmup))

    def _cooled(self, progress: float, *, high: float) -> float:
        low = min(self.final_lr_fraction, high)
        if self.cooldown_shape == "step":
            return low
        if self.cooldown_shape == "exponential":
            return float(high * (low / high) ** progress)
        left = 1 - (math.sqrt(progress) if self.cooldown_shape == "sqrt" else progress)
        return self._between(left, high=high)

    def _between(self, left: float, *, high: float) -> float:
        low = min(self.final_lr_fraction, high)
        return low + (high - low) * left
