"""AdamW's settings."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._foreach_utils import _get_fused_kernels_supported_devices

from mmlight.errors import UserError


@dataclass(frozen=True)
class AdamWSettings:
    """AdamW (arXiv 1711.05101) with the values of CLIP's ViT models by default.

    Args:
        lr: peak learning rate.
        betas: decay of the running mean of gradients and of their squares.
        eps: added to the denominator.
        weight_decay: per step and unit of learning rate, on matrices; vectors are not decayed.
        fused: one kernel for the whole update (4.6 times as fast as the loop on a CPU). None uses
            it wherever the parameters' device has one, which includes CPUs and CUDA GPUs. False is
            needed for gradient clipping with 16-mixed (float16) precision, which Lightning refuses
            with fused kernels; bf16 is not affected.

    Raises:
        UserError: a value out of its range.
    """

    lr: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 0.2
    fused: bool | None = None

    def __post_init__(self) -> None:
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise UserError(f"optimizer.lr: {self.lr} must be positive (usual is 5e-4)")
        if len(self.betas) != 2 or not all(0 <= b < 1 for b in self.betas):
            raise UserError(f"optimizer.betas: {self.betas} must be two numbers in [0, 1)")
        if not (self.eps >= 0 and math.isfinite(self.eps)):
            raise UserError(f"optimizer.eps: {self.eps} must be 0 or more (usual is 1e-6)")
        if not (self.weight_decay >= 0 and math.isfinite(self.weight_decay)):
            raise UserError(
                f"optimizer.weight_decay: {self.weight_decay} must be 0 or more (usual is 0.2)"
            )

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.AdamW:
        """Return the optimiser.

        Args:
            groups: as `mmlight.optim.groups.weight_decay_groups` returns them; a group's own
                ``lr`` and ``weight_decay`` win over these settings.

        Raises:
            UserError: `fused` is asked for where there is no such kernel.
        """
        supported = all(_has_fused_kernel(p) for group in groups for p in group["params"])
        if self.fused and not supported:
            raise UserError(
                "optimizer.fused: true, but a parameter lies on a device, or has a dtype, without "
                "a fused kernel; leave it null"
            )
        return torch.optim.AdamW(
            groups,
            lr=self.lr,
            betas=(self.betas[0], self.betas[1]),
            eps=self.eps,
            weight_decay=self.weight_decay,
            fused=supported if self.fused is None else self.fused,
        )


def _has_fused_kernel(parameter: Tensor) -> bool:
    return (
        parameter.is_floating_point()
        and parameter.device.type in _get_fused_kernels_supported_devices()
    )
