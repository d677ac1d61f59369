"""The parameters that are trained at each step of a run, and their learning rates."""

from bisect import bisect_right
from collections.abc import Mapping
from typing import Any

from torch import nn

from mmlight.encoders.lora import LoraSettings, add_adapters
from mmlight.errors import UserError
from mmlight.tasks.tower import Tower
from mmlight.tasks.tuning import Tuning, backbone_names, first_steps, positions
from mmlight.trainer.internals import AnyBatchNorm

_TENTH = 0.1


class TrainedParts:
    """Applies a `Tuning` to a built task.

    It is made when the task is built: it adds adapters, and leaves requiring gradients what is ever
    trained, so that optimisers and sharded strategies see all of it. `begin` then switches off what
    is not trained yet.

    Args:
        task: the module whose parameters are meant.
        towers: its towers.
        tuning: what to train, and how fast.
        lr: peak learning rate of the heads.
        origins: of parts besides the towers that are not new, a line that says where they are from.

    Attributes:
        lr_scales: factor of the learning rate by parameter name; others have 1.
        notes: lines that say where weights come from, what is trained and how fast.

    Raises:
        UserError: a setting that names what does not exist, or has no effect.
    """

    def __init__(
        self,
        task: nn.Module,
        towers: Mapping[str, Tower],
        *,
        tuning: Tuning,
        lr: float,
        origins: Mapping[str, str] | None = None,
    ) -> None:
        self._task = [task]  # in a list: a module would register it as its child
        self._towers = towers
        self._tuning = tuning
        self.notes: list[str] = [line for name in towers for line in _origin(name, towers[name])]
        origins = origins or {}
        self.notes += origins.values()
        if self.notes:
            self.notes.append(_new_parts(task, known=origins))
        free = {name: tower.encoder for name, tower in towers.items() if not tower.locked}
        self._free = free
        if tuning != Tuning() and not free:
            raise UserError("model.tuning has no effect: every tower is locked")
        if tuning.adapts:
            for name, encoder in free.items():
                assert tuning.method == "lora" or tuning.method == "dora"
                count = add_adapters(encoder, tuning.lora or LoraSettings(), method=tuning.method)
                self.notes.append(
                    f"towers.{name}: adapters beside {count} layers, learning rate {lr:.3g}"
                )
        locked = {id(p) for t in towers.values() if t.locked for p in t.encoder.parameters()}
        self._first_step = first_steps(task, free, tuning)
        for name, parameter in task.named_parameters():
            if id(parameter) in locked:
                self._first_step[name] = None
            parameter.requires_grad_(self._first_step[name] is not None)
        self._starts = sorted({s for s in self._first_step.values() if s is not None})
        self._stage: int | None = None
        self.lr_scales = self._scales(free, tuning=tuning, lr=lr)

    def begin(self, step: int) -> bool:
        """Make exactly what is trained in `step` require gradients; say whether that changed."""
        stage = bisect_right(self._starts, step)
        if stage == self._stage:
            return False
        changed = self._stage is not None
        self._stage = stage
        for name, parameter in self._task[0].named_parameters():
            first = self._first_step[name]
            parameter.requires_grad_(first is not None and first <= step)
            if not parameter.requires_grad:
                parameter.grad = None
        return changed

    def rest(self) -> None:
        """Put into evaluation mode the encoders and blocks of which nothing is trained now.

        Their dropout and their batch norms' statistics would change what is meant to stay.
        """
        for tower in self._towers.values():
            if not _learns(tower.encoder):
                tower.encoder.eval()
                continue
            for block in tower.encoder.blocks():
                for module in block.modules:
                    if not _learns(module):
                        module.eval()
            for module in tower.encoder.modules():
                if isinstance(module, AnyBatchNorm) and not _learns(module):
                    module.eval()

    def summary(self) -> str:
        """Return how many parameters are trained now."""
        parameters = list(self._task[0].parameters())
        total = sum(p.numel() for p in parameters)
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        return f"trains {trained:,} of {total:,} parameters ({trained / total:.2%})"

    @property
    def starts(self) -> list[int]:
        """The steps at which more is trained than before; none where nothing ever is."""
        return list(self._starts)

    @property
    def changes(self) -> bool:
        """Whether more parameters are trained later on than at the start."""
        return len(self._starts) > 1

    def check_effect(self) -> None:
        """Refuse settings that change nothing, before training.

        Not when a task is built: one from a checkpoint is no longer told where its weights came
        from.

        Raises:
            UserError: a setting for pretrained encoders where there are none.
        """
        if not self._free or any(encoder.is_pretrained for encoder in self._free.values()):
            return
        for key in ("backbone_lr", "layer_decay", "batch_norm"):
            if getattr(self._tuning, key) != getattr(Tuning(), key):
                raise UserError(
                    f"model.tuning.{key} has no effect: no encoder is pretrained (from_run, or "
                    "weights named in the encoder)"
                )

    def _scales(self, free: Mapping[str, Any], *, tuning: Tuning, lr: float) -> dict[str, float]:
        scales: dict[str, float] = {}
        for name, encoder in free.items():
            prefix = f"towers.{name}.encoder."
            own = [
                n.removeprefix(prefix)
                for n in backbone_names({name: encoder})
                if self._first_step[n] is not None
            ]
            if not own:
                continue
            top, why = self._backbone_lr(name, tuning=tuning, lr=lr)
            decay = tuning.layer_decay if encoder.is_pretrained else 1.0
            at = positions(encoder)
            last = max(at.values())
            scales |= {prefix + n: top / lr * decay ** (last - at[n]) for n in own}
            falling = f", {decay:g} of it from block to block below" if decay != 1 else ""
            self.notes.append(f"towers.{name}.encoder: learning rate {top:.3g}{why}{falling}")
        for name, tower in self._towers.items():
            if tower.loaded_projection:
                top, why = self._pretrained_lr(tower, tuning=tuning, lr=lr)
                prefix = f"towers.{name}.projection."
                scales |= {prefix + n: top / lr for n, _ in tower.projection.named_parameters()}
                self.notes.append(f"towers.{name}.projection: learning rate {top:.3g}{why}")
        return {name: scale for name, scale in scales.items() if scale != 1.0}

    def _backbone_lr(self, name: str, *, tuning: Tuning, lr: float) -> tuple[float, str]:
        tower = self._towers[name]
        if not tower.encoder.is_pretrained:
            return lr, " (it starts from random weights)"
        if tuning.method == "bitfit":
            return lr, " (biases alone)"
        return self._pretrained_lr(tower, tuning=tuning, lr=lr)

    def _pretrained_lr(self, tower: Tower, *, tuning: Tuning, lr: float) -> tuple[float, str]:
        if tuning.backbone_lr is not None:
            return tuning.backbone_lr, ""
        if tower.source is not None and tower.source.lr is not None:
            return (
                tower.source.lr * _TENTH,
                f" (a tenth of the {tower.source.lr:.3g} it was pretrained with)",
            )
        return lr * _TENTH, " (a tenth of optimizer.lr)"


def _learns(module: nn.Module) -> bool:
    # A module without parameters of its own (a dropout) goes with what is around it.
    parameters = list(module.parameters())
    return not parameters or any(p.requires_grad for p in parameters)


def _new_parts(task: nn.Module, *, known: Mapping[str, str]) -> str:
    counts = {
        name: sum(p.numel() for p in child.parameters())
        for name, child in task.named_children()
        if name != "towers" and name not in known
    }
    parts = [f"{name} ({count:,})" for name, count in counts.items() if count]
    return f"new: {', '.join(parts) or 'nothing'} (parameters)"


def _origin(name: str, tower: Tower) -> list[str]:
    source = tower.source
    if source is None:
        origin = tower.encoder.origin
        return [f"towers.{name}.encoder: {origin}"] if origin else []
    state = tower.encoder.state_dict()
    count = sum(p.numel() for p in tower.encoder.parameters())
    lines = [f"towers.{name}.encoder: {len(state)} tensors ({count:,} parameters) of {source.path}"]
    if tower.loaded_projection:
        lines.append(f"towers.{name}.projection: of the same file")
    elif len(tower.projection.state_dict()):
        lines.append(f"towers.{name}.projection: new")
    if source.left_over:
        lines.append(f"towers.{name}: left over there: {', '.join(source.left_over)}")
    return lines
