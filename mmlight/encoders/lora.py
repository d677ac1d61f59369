"""Low-rank adapters in encoders: put in place by peft, and merged into the weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from torch import nn
from transformers.pytorch_utils import Conv1D

from mmlight.encoders.encoder import Encoder
from mmlight.errors import UserError


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters (arXiv 2106.09685) beside the weights of linear layers.

    Attributes:
        rank: width r of an adapter.
        alpha: an adapter's output is multiplied by alpha / rank.
        dropout: dropout in front of an adapter.
        target: patterns of module names inside the encoders (``*`` for any characters), such as
            ``*query`` and ``*value``; None takes every linear layer of the repeated blocks, and
            where these have none (a CNN) every convolution.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    target: list[str] | None = None

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if self.rank < 1:
            raise UserError(f"model.tuning.lora.rank: {self.rank} must be 1 or more")
        if self.alpha <= 0:
            raise UserError(f"model.tuning.lora.alpha: {self.alpha} must be above 0")
        if not 0 <= self.dropout < 1:
            raise UserError(f"model.tuning.lora.dropout: {self.dropout} must be in [0, 1)")


def add_adapters(
    encoder: Encoder, settings: LoraSettings, *, method: Literal["lora", "dora"]
) -> int:
    """Put adapters beside layers of an encoder, which keep their function until they are trained.

    Args:
        encoder: changed in place; its own weights no longer require gradients.
        settings: rank, scale and which layers.
        method: ``lora`` or ``dora``.

    Returns:
        The number of layers that got one.

    Raises:
        UserError: peft is not installed, or no layer has such a name.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError(
            f"model.tuning.method: {method} needs peft: pip install 'mmlight[lora]'"
        ) from error
    names = _targets(encoder, settings.target)
    make: Any = LoraConfig  # declares alpha as a whole number
    config = make(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=names,
        use_dora=method == "dora",
        # GPT-2's linear layers hold their matrix the other way round.
        fan_in_fan_out=all(isinstance(encoder.get_submodule(name), Conv1D) for name in names),
    )
    inject_adapter_in_model(config, encoder)
    return len(names)


def merge_adapters(module: nn.Module) -> int:
    """Add what adapters learned to the weights, and take them out; return how many there were.

    Args:
        module: changed in place: its parameters are named as before adapters were added.
    """
    return _take_out(module, merge=True)


def remove_adapters(module: nn.Module) -> int:
    """Take adapters out as if they had never been there; return how many there were."""
    return _take_out(module, merge=False)


@contextmanager
def without_adapters(module: nn.Module) -> Iterator[None]:
    """Have a module do what it did before adapters were added."""
    adapted = _adapted(module)
    needed = {parameter: parameter.requires_grad for parameter in module.parameters()}
    try:
        for _, layer in adapted:
            layer.enable_adapters(False)
        yield
    finally:
        for _, layer in adapted:
            layer.enable_adapters(True)
        for parameter, requires_grad in needed.items():  # which peft changes, too
            parameter.requires_grad_(requires_grad)


def _adapted(module: nn.Module) -> list[tuple[str, Any]]:
    if not any("lora_A" in name for name, _ in module.named_modules()):
        return []
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [(name, m) for name, m in module.named_modules() if isinstance(m, BaseTunerLayer)]


def _take_out(module: nn.Module, *, merge: bool) -> int:
    adapted = _adapted(module)
    for name, layer in adapted:
        if merge:
            layer.merge()
        parent, _, own = name.rpartition(".")
        setattr(module.get_submodule(parent), own, layer.get_base_layer())
    return len(adapted)


def _targets(encoder: Encoder, patterns: list[str] | None) -> list[str]:
    adaptable = (nn.Linear, Conv1D, nn.Conv1d, nn.Conv2d, nn.Embedding)
    layers = {n: m for n, m in encoder.named_modules() if isinstance(m, adaptable)}
    if patterns is not None:
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in layers):
                raise UserError(
                    f"model.tuning.lora.target: '{pattern}' is no layer of the {encoder.modality} "
                    f"encoder; it has {', '.join(list(layers)[:4])}, ..."
                )
        return [n for n in layers if any(fnmatchcase(n, pattern) for pattern in patterns)]
    inside = {
        id(module)
        for block in encoder.blocks()
        if block.repeated
        for part in block.modules
        for module in part.modules()
    }
    for kind in (nn.Linear, Conv1D, nn.Conv2d):
        # Exactly this class: attention that reads its layer's weights would pass an adapter by.
        found = [n for n, m in layers.items() if type(m) is kind and id(m) in inside]
        if found:
            return found
    raise UserError(
        f"model.tuning: the {encoder.modality} encoder has no linear layer in its blocks; name "
        "layers in lora.target"
    )
