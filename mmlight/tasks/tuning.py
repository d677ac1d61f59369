"""How much of a model is trained, from which step on, and how fast."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from torch import nn

from mmlight.encoders.encoder import Encoder
from mmlight.encoders.lora import LoraSettings
from mmlight.errors import UserError, nearest
from mmlight.trainer.internals import AnyBatchNorm

Method = Literal["full", "bitfit", "lora", "dora"]

_BLOCKS = re.compile(r"(first|last) (\d+) blocks?")


@dataclass(frozen=True)
class Tuning:
    """What of the encoders is trained. Heads, projections and objectives always are.

    Parts are named ``head`` (all that is no encoder), ``all``, ``first N blocks`` (the input's stem
    and N blocks of each encoder), ``last N blocks`` (N blocks, the final norm and the pooling), or
    by patterns of parameter names such as ``towers.text.*.embeddings.*``.

    Attributes:
        freeze: what is never trained: ``none``, ``all`` (every encoder), ``first N blocks`` or
            patterns.
        unfreeze: a schedule, from which step on what is trained besides what already is, such as
            ``{0: head, 500: last 2 blocks, 2000: all}``; empty trains everything from the start.
            With adapters it says when these begin: ``{0: "bridges.*", 500: all}``.
        method: ``full`` trains weights; ``bitfit`` only biases (arXiv 2106.10199); ``lora`` and
            ``dora`` (arXiv 2402.09353) only adapters.
        lora: the adapters' settings, for ``lora`` and ``dora``.
        backbone_lr: learning rate of pretrained encoders; None takes a tenth of the rate they were
            pretrained with (of `optimizer.lr` where that is unknown). Encoders that start from
            random weights, adapters and biases alone learn at `optimizer.lr`.
        layer_decay: each block of a pretrained encoder learns at this factor of the rate of the
            block above it.
        batch_norm: ``frozen`` keeps the statistics and the affine parameters of batch norms in
            pretrained encoders; ``train`` leaves those in trained parts to learn.
    """

    freeze: str | list[str] = "none"
    unfreeze: dict[int, str | list[str]] = field(default_factory=dict)
    method: Method = "full"
    lora: LoraSettings | None = None
    backbone_lr: float | None = None
    layer_decay: float = 1.0
    batch_norm: Literal["train", "frozen"] = "train"

    def __post_init__(self) -> None:
        """Refuse values out of range, and settings without effect."""
        where = "model.tuning"
        if self.unfreeze and 0 not in self.unfreeze:
            raise UserError(f"{where}.unfreeze: says nothing of step 0; begin with `0: head`")
        if self.unfreeze and min(self.unfreeze) < 0:
            raise UserError(f"{where}.unfreeze: step {min(self.unfreeze)} must be 0 or more")
        if self.backbone_lr is not None and not self.backbone_lr > 0:
            raise UserError(
                f"{where}.backbone_lr: {self.backbone_lr} must be above 0 (freeze: all trains no "
                "encoder)"
            )
        if not 0 < self.layer_decay <= 1:
            raise UserError(f"{where}.layer_decay: {self.layer_decay} must be in (0, 1]")
        if self.adapts:
            for key in ("freeze", "backbone_lr", "layer_decay", "batch_norm"):
                if getattr(self, key) != getattr(Tuning(), key):
                    raise UserError(
                        f"{where}.{key}: has no effect with method {self.method}, which trains "
                        "adapters only"
                    )
        elif self.lora is not None:
            raise UserError(f"{where}.lora: has no effect with method {self.method}; use lora")
        if self.freeze == "all" and (self.unfreeze or self.method != "full"):
            raise UserError(f"{where}.freeze: all leaves nothing for unfreeze or {self.method}")

    @property
    def adapts(self) -> bool:
        """Whether adapters are trained in place of weights."""
        return self.method in ("lora", "dora")


def backbone_names(encoders: Mapping[str, Encoder]) -> dict[str, tuple[str, str]]:
    """Return the encoders' parameters that are not new: full name to (tower, name inside).

    Args:
        encoders: by tower.
    """
    return {
        f"towers.{tower}.encoder.{name}": (tower, name)
        for tower, encoder in encoders.items()
        for name in sorted(dict(encoder.named_parameters()).keys() - encoder.new_parameters())
        if ".lora_" not in name
    }


def first_steps(
    module: nn.Module, encoders: Mapping[str, Encoder], tuning: Tuning
) -> dict[str, int | None]:
    """Return the step from which each parameter is trained; None for one that never is.

    Args:
        module: the task, whose parameter names are the keys.
        encoders: its encoders by tower; those of locked towers are not to be in it.
        tuning: what to train.

    Raises:
        UserError: a part that does not exist.
    """
    everything = [name for name, _ in module.named_parameters()]
    backbone = backbone_names(encoders)
    frozen = _frozen(everything, backbone, encoders, tuning)
    schedule = tuning.unfreeze or {0: "all"}
    steps: dict[str, int | None] = dict.fromkeys(everything)
    for step in sorted(schedule, reverse=True):
        part = _part(schedule[step], everything, backbone, encoders, key=f"unfreeze.{step}")
        steps.update(dict.fromkeys(part, step))
    return {name: None if name in frozen else step for name, step in steps.items()}


def _frozen(
    everything: list[str],
    backbone: Mapping[str, tuple[str, str]],
    encoders: Mapping[str, Encoder],
    tuning: Tuning,
) -> set[str]:
    if tuning.adapts:
        return set(backbone)
    frozen: set[str] = set()
    if tuning.freeze == "all":
        frozen |= set(backbone)
    elif tuning.freeze == "head":
        raise UserError("model.tuning.freeze: head would leave the task's own layers random")
    elif tuning.freeze != "none":
        frozen |= _part(tuning.freeze, everything, backbone, encoders, key="freeze")
    if tuning.method == "bitfit":
        frozen |= {name for name in backbone if not name.endswith("bias")}
    if tuning.batch_norm == "frozen":
        for tower, encoder in encoders.items():
            for name, module in encoder.named_modules():
                if isinstance(module, AnyBatchNorm):
                    own = f"towers.{tower}.encoder.{name}."
                    frozen |= {n for n in backbone if n.startswith(own)}
    return frozen


def _part(
    said: str | list[str],
    everything: list[str],
    backbone: Mapping[str, tuple[str, str]],
    encoders: Mapping[str, Encoder],
    *,
    key: str,
) -> set[str]:
    if said == "all":
        return set(everything)
    head = set(everything) - set(backbone)
    if said == "head":
        return head
    if isinstance(said, str) and (blocks := _BLOCKS.fullmatch(said)):
        depth = {tower: positions(encoder) for tower, encoder in encoders.items()}
        wanted = {
            tower: _block_range(encoder, blocks[1], int(blocks[2]), where=f"{key}: '{said}'")
            for tower, encoder in encoders.items()
        }
        return {
            full for full, (tower, name) in backbone.items() if depth[tower][name] in wanted[tower]
        }
    found: set[str] = set()
    for pattern in [said] if isinstance(said, str) else said:
        matching = {name for name in everything if fnmatchcase(name, pattern)}
        if not matching:
            raise UserError(
                f"model.tuning.{key}: '{pattern}' is none of head, all, first N blocks, last N "
                f"blocks, and no parameter is named so{nearest(pattern, everything)}"
            )
        found |= matching
    return found


def positions(encoder: Encoder) -> dict[str, int]:
    """Return the number of the block, from the input on, that holds each of its parameters."""
    number = {
        id(parameter): index
        for index, block in enumerate(encoder.blocks())
        for module in block.modules
        for parameter in module.parameters()
    }
    return {name: number[id(parameter)] for name, parameter in encoder.named_parameters()}


def _block_range(encoder: Encoder, end: str, count: int, *, where: str) -> range:
    blocks = encoder.blocks()
    repeated = [number for number, block in enumerate(blocks) if block.repeated]
    if not 1 <= count <= len(repeated):
        raise UserError(
            f"model.tuning.{where}, but the {encoder.modality} encoder has {len(repeated)} blocks"
        )
    if end == "first":
        return range(repeated[count - 1] + 1)
    return range(repeated[-count], len(blocks))
