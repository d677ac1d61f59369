"""Which way a batch of captions goes through a text model: padded, in groups, or packed in rows.

The models are named one by one, and each is tested: a model is listed only if padding to the right
of a caption changes nothing of it, and among those that can be packed only if it takes positions
and a mask of blocks besides.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmlight.encoders.text_rows import GroupPlan, RowPlan, plan_groups, plan_rows
from mmlight.errors import UserError
from mmlight.trainer.internals import FakeTensor

TextBatching = Literal["auto", "packed", "grouped", "padded"]

_PACKED_CAUSAL = (
    "clip_text_model",
    "gemma",
    "gpt2",
    "gpt_neox",
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
)
_PACKED_BIDIRECTIONAL = (
    "albert",
    "bert",
    "camembert",
    "data2vec-text",
    "distilbert",
    "electra",
    "modernbert",
    "roberta",
    "xlm-roberta",
)
_GROUPED = ("deberta", "deberta-v2", "ernie", "mpnet", "opt")
# Others stretch their rotation with the longest caption of the batch.
_FIXED_ROTATIONS = ("default", "linear", "llama3", "yarn")

# What packing costs in itself, in tokens of a batch: below, a small model gains nothing.
_LEAST_GAIN = 1.15
_LEAST_SAVED = 256


@dataclass(frozen=True)
class TextLayouts:
    """What changes no feature of a model beyond rounding.

    Attributes:
        grouped: whether captions may be cut to the longest of a group.
        packed: whether they may share rows.
        causal: whether tokens see only those before them.
        window: longest caption that may be packed, since longer ones are not seen whole by every
            token; None without a limit.
    """

    grouped: bool
    packed: bool
    causal: bool
    window: int | None


def exact_layouts(model: Any) -> TextLayouts:
    """Return what is exact for a text model of transformers.

    Args:
        model: the model.
    """
    config = model.config
    causal = config.model_type in _PACKED_CAUSAL
    packed = causal or config.model_type in _PACKED_BIDIRECTIONAL
    plain = (
        _rotations_are_fixed(config)
        and not getattr(config, "chunk_size_feed_forward", 0)
        # DeBERTa's convolution reads what lies behind the last token.
        and not getattr(config, "conv_kernel_size", 0)
        and getattr(config, "is_decoder", False) in (False, None)
        and not getattr(config, "add_cross_attention", False)
        and getattr(config, "is_causal", True) is not False
    )
    return TextLayouts(
        grouped=plain and (packed or config.model_type in _GROUPED),
        packed=plain and packed and config._attn_implementation == "sdpa",
        causal=causal,
        window=getattr(config, "sliding_window", None),
    )


def _rotations_are_fixed(config: Any) -> bool:
    found = getattr(config, "rope_parameters", None) or {}
    kinds = [found] if "rope_type" in found else [p for p in found.values() if isinstance(p, dict)]
    return all(kind.get("rope_type", "default") in _FIXED_ROTATIONS for kind in kinds)


def check_batching(batching: TextBatching, layouts: TextLayouts, *, model_type: str) -> None:
    """Refuse a layout that would change a model's features.

    Raises:
        UserError: `packed` or `grouped` for such a model.
    """
    if batching in ("packed", "grouped") and not getattr(layouts, batching):
        raise UserError(
            f"batching: {batching} is not known to be exact for this '{model_type}'; use auto"
        )


def choose_layout(
    lengths: list[int],
    padded_length: int,
    batching: TextBatching,
    layouts: TextLayouts,
    *,
    multiple: int = 1,
    most: int | None = None,
) -> RowPlan | GroupPlan | None:
    """Return rows, groups, or None for the captions as they are.

    Args:
        lengths: tokens of each caption.
        padded_length: tokens L of the padded batch.
        batching: what the user asks for; ``auto`` takes what saves enough.
        layouts: what is exact.
        multiple: the width of rows becomes a multiple of this.
        most: largest width of rows; None without a limit.
    """
    padded, total = len(lengths) * padded_length, sum(lengths)
    auto = batching == "auto"
    if auto and not pays(padded, total):
        return None
    fits = layouts.window is None or max(lengths) <= layouts.window
    if batching in ("auto", "packed") and layouts.packed and fits:
        rows = plan_rows(lengths, multiple=multiple, most=most)
        if not auto or pays(padded, rows.num_places):
            return rows
        return None
    if batching in ("auto", "grouped") and layouts.grouped:
        groups = plan_groups(lengths)
        if not auto or pays(padded, groups.num_places):
            return groups
    return None


def pays(padded: int, places: int) -> bool:
    """Say whether so many places instead of those of a padded batch are worth the work."""
    return padded >= _LEAST_GAIN * places and padded - places >= _LEAST_SAVED


def is_traced(tensor: Tensor) -> bool:
    """Say whether a tensor has no values to plan by: an export, a compiler, the meta device."""
    return (
        torch.compiler.is_compiling()
        or torch.compiler.is_exporting()
        or torch.jit.is_tracing()  # type: ignore[attr-defined]
        or tensor.is_meta
        or isinstance(tensor, FakeTensor)
    )


def has_collective_forwards(module: nn.Module) -> bool:
    """Say whether calls of a module's parts wait for other ranks: FSDP gathers their weights.

    All ranks must then call the model equally often, whatever captions they have.
    """
    if not torch.distributed.is_available():
        return False
    from torch.distributed.fsdp import FSDPModule

    return any(isinstance(part, FSDPModule) for part in module.modules())
