"""The optimiser's settings: AdamW's, or those of another class."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._foreach_utils import _get_fused_kernels_supported_devices

from mmlight.errors import UserError
from mmlight.optim.other import build_other


@dataclass(frozen=True)
class AdamWSettings:
    """AdamW (arXiv 1711.05101) with the values of CLIP's ViT models by default, or another class.

    What another class is given are the same groups of parameters: `lr` with its layer-wise factors,
    `weight_decay` on matrices only; frozen parameters are left out.

    Args:
        lr: peak learning rate.
        betas: decay of the running mean of gradients and of their squares.
        eps: added to the denominator.
        weight_decay: per step and unit of learning rate, on matrices; vectors are not decayed. None
            is 0.2 with AdamW, with another class that one's own default.
        fused: one kernel for the whole update (4.6 times as fast as the loop on a CPU). None uses
            it wherever the parameters' device has one, which includes CPUs and CUDA GPUs. False is
            needed for gradient clipping with 16-mixed (float16) precision, which Lightning refuses
            with fused kernels; bf16 is not affected.
        class_path: another optimiser: ``torch.optim.SGD``, ``timm.optim.Muon``, a class of your
            own, or a function (``timm.optim.create_optimizer_v2`` with ``opt`` in `init_args`).
        init_args: its settings; ``lr`` and ``weight_decay`` among them win over those above.

    Raises:
        UserError: a value out of its range.
    """

    # A checkpoint may name what stands in these modules; else see `Encoder.outside`.
    outside: ClassVar[dict[str, tuple[str, ...]]] = {"class_path": ("torch.optim", "timm.optim")}

    lr: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float | None = None
    fused: bool | None = None
    class_path: str | None = None
    init_args: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        self._take_over()
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise UserError(f"optimizer.lr: {self.lr} must be positive (usual is 5e-4)")
        if len(self.betas) != 2 or not all(0 <= b < 1 for b in self.betas):
            raise UserError(f"optimizer.betas: {self.betas} must be two numbers in [0, 1)")
        if not (self.eps >= 0 and math.isfinite(self.eps)):
            raise UserError(f"optimizer.eps: {self.eps} must be 0 or more (usual is 1e-6)")
        decay = self.weight_decay
        if decay is not None and not (decay >= 0 and math.isfinite(decay)):
            raise UserError(
                f"optimizer.weight_decay: {self.weight_decay} must be 0 or more (usual is 0.2)"
            )

    def _take_over(self) -> None:
        """Take the rate and the decay from `init_args`; refuse what would have no effect."""
        if self.class_path is None:
            if self.init_args:
                raise UserError("optimizer.init_args: has no effect without class_path")
            if self.weight_decay is None:
                object.__setattr__(self, "weight_decay", 0.2)
            return
        given = dict(self.init_args or {})
        for name in ("lr", "weight_decay"):
            if name in given:
                value = given.pop(name)
                if isinstance(value, bool) or not isinstance(value, int | float):
                    raise UserError(f"optimizer.init_args.{name}: must be a number, not {value!r}")
                object.__setattr__(self, name, float(value))
        object.__setattr__(self, "init_args", given)
        for name in ("betas", "eps", "fused"):
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise UserError(
                    f"optimizer.{name}: is AdamW's; settings of {self.class_path} stand in "
                    f"optimizer.init_args"
                )

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return the optimiser.

        Args:
            groups: as `mmlight.optim.groups.weight_decay_groups` returns them; a group's own
                ``lr`` and ``weight_decay`` win over these settings.

        Raises:
            UserError: `fused` is asked for where there is no such kernel, or another class cannot
                be built.
        """
        if self.class_path is not None:
            return build_other(
                self.class_path,
                groups,
                lr=self.lr,
                weight_decay=self.weight_decay,
                settings=self.init_args or {},
            )
        assert self.weight_decay is not None
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
