"""Muon: a matrix moves by its momentum, made orthogonal.

Shapes: a matrix of M rows and N columns; further axes are part of the second.
"""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from mmlight.errors import UserError

# The quintic that Jordan (2024) chose: its fixed points are near 1, and small values grow fast.
_QUINTIC = (3.4445, -4.7750, 2.0315)
# The root of the mean square of AdamW's usual steps (arXiv 2502.16982, section 2.2).
_RMS = 0.2


def orthogonal(matrix_MN: Tensor, *, num_steps: int = 5) -> Tensor:
    """Return about U V^T of a matrix U S V^T, by Newton-Schulz iterations (Jordan, 2024).

    On CPUs it is computed in float32 and not in bfloat16, as by torch and timm: few have fast
    kernels for that (28 matrices of width 128: 0.03 s against 0.9 s).

    Args:
        matrix_MN: the matrix.
        num_steps: iterations.
    """
    fast = torch.float32 if matrix_MN.device.type == "cpu" else torch.bfloat16
    found = matrix_MN.to(fast)
    wide = found if found.shape[0] <= found.shape[1] else found.T
    wide = wide / wide.norm().clamp(min=1e-7)
    first, third, fifth = _QUINTIC
    for _ in range(num_steps):
        gram = wide @ wide.T
        wide = first * wide + (third * gram + fifth * gram @ gram) @ wide
    found = wide if found.shape[0] <= found.shape[1] else wide.T
    return found.to(matrix_MN.dtype)


class Muon(torch.optim.Optimizer):
    """Orthogonal momentum for matrices (Jordan, 2024), AdamW for embeddings, vectors and scalars.

    The steps of matrices are as long as AdamW's usual ones (arXiv 2502.16982), so that a learning
    rate and a weight decay that suit it suit this. Matrices that FSDP shards are put together for
    it on every rank.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        weight_decay: per step and unit of learning rate.
        momentum: share of the old momentum that a step keeps (Nesterov's).
        betas: of AdamW's means.
        eps: of AdamW.
        fallback_lr_scale: learning rate of what AdamW trains, relative to `lr`.
        num_steps: iterations of `orthogonal`.

    Raises:
        UserError: a value out of its range.
    """

    # Tells `mmlight.optim.groups.weight_decay_groups` to give embeddings groups of their own.
    embeddings_apart: ClassVar[bool] = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
        fallback_lr_scale: float = 1.0,
        num_steps: int = 5,
    ) -> None:
        if not all(0 <= share < 1 for share in (momentum, *betas)):
            raise UserError(f"momentum {momentum} and betas {betas} must be in [0, 1)")
        if fallback_lr_scale <= 0 or num_steps < 1:
            raise UserError("fallback_lr_scale must be above 0, num_steps 1 or more")
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "betas": (betas[0], betas[1]),
            "eps": eps,
            "fallback_lr_scale": fallback_lr_scale,
            "num_steps": num_steps,
            "embeddings": False,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move the parameters by their gradients; return what the closure returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if (gradient := parameter.grad) is None:
                    continue
                is_matrix = not group["embeddings"] and _is_matrix(parameter)
                move = _move_matrix if is_matrix else _move_rest
                move(parameter, gradient, self.state[parameter], group)
        return loss


def _is_matrix(parameter: Tensor) -> bool:
    """Tell whether it has rows and columns; position embeddings (1, L, D) have none."""
    return parameter.ndim > 1 and parameter.shape[0] > 1 and parameter[0].numel() > 1


def _move_matrix(
    parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]
) -> None:
    if not state:
        state["momentum"] = torch.zeros_like(gradient)
    state["momentum"].lerp_(gradient, 1 - group["momentum"])
    update = gradient.lerp(state["momentum"], group["momentum"])
    whole = update.full_tensor() if isinstance(update, DTensor) else update
    matrix = whole.flatten(1)
    length = _RMS * max(matrix.shape) ** 0.5
    moved = orthogonal(matrix, num_steps=group["num_steps"]).view(whole.shape)
    if isinstance(parameter, DTensor):
        # Each rank has the whole: nothing has to be sent.
        moved = distribute_tensor(
            moved, parameter.device_mesh, parameter.placements, src_data_rank=None
        )
    parameter.mul_(1 - group["lr"] * group["weight_decay"])
    parameter.add_(moved, alpha=-group["lr"] * length)


def _move_rest(
    parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]
) -> None:
    first, second = group["betas"]
    if not state:
        state["step"] = 0
        state["mean"] = torch.zeros_like(gradient)
        state["square"] = torch.zeros_like(gradient)
    state["step"] += 1
    state["mean"].lerp_(gradient, 1 - first)
    state["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
    rate = group["lr"] * group["fallback_lr_scale"]
    parameter.mul_(1 - rate * group["weight_decay"])
    size = (state["square"] / (1 - second ** state["step"])).sqrt_().add_(group["eps"])
    parameter.addcdiv_(state["mean"], size, value=-rate / (1 - first ** state["step"]))
