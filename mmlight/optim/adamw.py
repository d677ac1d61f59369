"""The optimiser's settings: AdamW's, or those of another class."""

import importlib
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import torch
from torch.distributed.tensor import DTensor

from mmlight.errors import UserError, nearest
from mmlight.optim.groups import NoDecay
from mmlight.optim.muon import Muon
from mmlight.trainer.internals import has_fused_kernel


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
        no_decay: what weight decay leaves out: ``vectors_and_listed`` are vectors, scalars and what
            an encoder lists (position embeddings, class tokens), as open_clip's main branch has it;
            with ``vectors``, as in open_clip 3.3.0, position embeddings are decayed.
        fused: one kernel for the whole update (4.6 times as fast as the loop on a CPU). None uses
            it wherever the parameters' device has one, which includes CPUs and CUDA GPUs. False is
            needed for gradient clipping with 16-mixed (float16) precision, which Lightning refuses
            with fused kernels; bf16 is not affected.
        class_path: another optimiser: ``torch.optim.SGD``, ``timm.optim.Lion``,
            `mmlight.optim.muon.Muon`, a class of your own, or a function
            (``timm.optim.create_optimizer_v2`` with ``opt`` in `init_args`).
        init_args: its settings; ``lr`` and ``weight_decay`` among them win over those above.

    Raises:
        UserError: a value out of its range.
    """

    # A checkpoint may name what stands in these modules; else see `Encoder.outside`.
    outside: ClassVar[dict[str, tuple[str, ...]]] = {
        "class_path": ("torch.optim", "timm.optim", "mmlight.optim.muon")
    }

    lr: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float | None = None
    no_decay: NoDecay = "vectors_and_listed"
    fused: bool | None = None
    class_path: str | None = None
    init_args: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        self._take_over()
        if self.no_decay not in get_args(NoDecay):
            known = ", ".join(get_args(NoDecay))
            raise UserError(f"optimizer.no_decay: '{self.no_decay}'; use one of {known}")
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

    @property
    def embeddings_apart(self) -> bool:
        """Whether the class treats embeddings in another way than matrices."""
        return self.class_path is not None and hasattr(_find(self.class_path), "embeddings_apart")

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
            return _build_other(self.class_path, groups, self)
        assert self.weight_decay is not None
        supported = all(has_fused_kernel(p) for group in groups for p in group["params"])
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


_KEY = "model.optimizer"


def _build_other(
    path: str, groups: list[dict[str, Any]], own: AdamWSettings
) -> torch.optim.Optimizer:
    """Return an optimiser of another class, or one that a function makes."""
    settings, weight_decay = own.init_args or {}, own.weight_decay
    make = _find(path)
    try:
        parameters = inspect.signature(make).parameters
    except ValueError as error:  # of a class written in C
        raise UserError(f"{_KEY}.class_path: {path} is no optimiser of torch") from error
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    names = [n for n, p in parameters.items() if p.kind is not p.VAR_KEYWORD][1:]
    for name in settings:
        if name not in names and not takes_any:
            raise UserError(
                f"{_KEY}.init_args: {path} has no setting '{name}'{nearest(name, names)}; "
                f"it has {', '.join(names)}"
            )
    arguments: dict[str, Any] = {**settings, "lr": own.lr}
    if "lr" not in names and not takes_any:
        raise UserError(f"{_KEY}: {path} takes no learning rate, so no schedule can drive it")
    decays = "weight_decay" in names
    if weight_decay is not None and decays:
        arguments["weight_decay"] = weight_decay
    elif weight_decay:
        raise UserError(f"{_KEY}.weight_decay: {path} has none; leave it out or set it to 0")
    for group in groups:
        # What is decayed has the class's own default where nothing else was asked for.
        if not decays or (weight_decay is None and group["weight_decay"] is None):
            del group["weight_decay"]
    try:
        optimizer = make(groups, **arguments)
    except Exception as error:  # each class checks its arguments in its own way
        raise UserError(f"{_KEY}: {path}: {_said(error, path)}") from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UserError(f"{_KEY}: {path} made no torch optimiser but a {type(optimizer).__name__}")
    if callable(getattr(optimizer, "eval", None)):
        raise UserError(
            f"{_KEY}: {path} keeps other weights for evaluation (schedule-free), which is not "
            "supported; `ema: {decay: 0.999}` with `schedule: {kind: constant}` averages weights"
        )
    if "muon" in type(optimizer).__name__.lower() and not isinstance(optimizer, Muon):
        parameters_of_groups = (p for group in optimizer.param_groups for p in group["params"])
        if any(isinstance(parameter, DTensor) for parameter in parameters_of_groups):
            # Measured on two ranks: after four steps weights differ by 1e-3 at a rate of 1e-3.
            raise UserError(
                f"{_KEY}: {path} needs whole matrices, which trainer.strategy fsdp shards; take "
                "mmlight.optim.muon.Muon, or ddp"
            )
    return optimizer


def own_settings(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Return the settings of each group, without what a class counts in them (`step`, `d`)."""
    known = {*inspect.signature(type(optimizer)).parameters, "lr", "weight_decay", "name"}
    return [
        {key: value for key, value in group.items() if key in known and key != "params"}
        for group in optimizer.param_groups
    ]


def _find(path: str) -> Callable[..., Any]:
    module_name, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        raise UserError(f"{_KEY}.class_path: {path} cannot be imported: {error}") from error
    found = getattr(module, name, None)
    if not callable(found):
        classes = [n for n, v in vars(module).items() if isinstance(v, type)]
        raise UserError(f"{_KEY}.class_path: {module_name} has no {name}{nearest(name, classes)}")
    return found


def _said(error: Exception, path: str) -> str:
    said = " ".join(str(error).split()) or type(error).__name__
    if path.startswith("torch.optim.Muon") or path.endswith(".muon.Muon"):
        said += "; mmlight.optim.muon.Muon trains the rest by AdamW"
    return said
