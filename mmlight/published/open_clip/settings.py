"""The configuration of a model of open_clip, checked: what is known of it, with its defaults."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from mmlight.errors import UserError, nearest

# Whatever these are set to, the embeddings are the same.
_NO_MATTER = {
    "vision_cfg": ("output_tokens", "timm_model_pretrained", "timm_drop", "block_type"),
    "text_cfg": (
        "output_tokens",
        "hf_model_pretrained",
        "tokenizer_mode",
        "tokenizer_kwargs",
        "pad_id",
        "eos_id",
        "block_type",
    ),
    "model_cfg": ("custom_text", "init_logit_scale", "nonscalar_logit_scale", "multimodal_cfg"),
}
# Layers that our encoders lack: only without them.
_WITHOUT = {
    "qk_norm": False,
    "scaled_cosine_attn": False,
    "scale_heads": False,
    "scale_attn_inner": False,
    "scale_attn": False,
    "scale_fc": False,
    "use_pad_mask": False,
}


@dataclass(frozen=True)
class VisionCfg:
    """``vision_cfg``: what decides which network an image tower is; see open_clip's own."""

    layers: Any = 12
    width: int = 768
    head_width: int = 64
    mlp_ratio: float = 4.0
    patch_size: int | None = 16
    image_size: int = 224
    ls_init_value: float | None = None
    patch_dropout: float = 0.0
    attentional_pool: Any = False
    attn_pooler_queries: int = 256
    attn_pooler_heads: int = 8
    no_ln_pre: bool = False
    pos_embed_type: str = "learnable"
    final_ln_after_pool: bool = False
    pool_type: str = "tok"
    act_kwargs: Mapping[str, Any] | None = None
    norm_kwargs: Mapping[str, Any] | None = None
    timm_model_name: str | None = None
    timm_pool: str = "avg"
    timm_proj: str | None = "linear"
    timm_proj_bias: bool = False
    timm_drop_path: float | None = None


@dataclass(frozen=True)
class TextCfg:
    """``text_cfg``: what decides which network a text tower is; see open_clip's own."""

    context_length: int = 77
    vocab_size: int = 49408
    hf_tokenizer_name: str | None = None
    width: int = 512
    heads: int = 8
    layers: int = 12
    mlp_ratio: float = 4.0
    ls_init_value: float | None = None
    embed_cls: bool = False
    correct_cls_mask: bool = False
    no_causal_mask: bool = False
    final_ln_after_pool: bool = False
    pool_type: str = "argmax"
    proj_bias: bool = False
    proj_type: str = "linear"
    act_kwargs: Mapping[str, Any] | None = None
    norm_kwargs: Mapping[str, Any] | None = None
    hf_model_name: str | None = None
    hf_proj_type: str | None = "mlp"
    hf_pooler_type: str | None = "mean_pooler"


@dataclass(frozen=True)
class ModelCfg:
    """A model's ``model_cfg``.

    Attributes:
        embed_dim: width of the joint space.
        vision: its image tower.
        text: its text tower.
        quick_gelu: whether transformers of both towers have OpenAI's fast GELU.
        init_logit_bias: where the bias of SigLIP's loss began; None for CLIP's.
    """

    embed_dim: int
    vision: VisionCfg
    text: TextCfg
    quick_gelu: bool = False
    init_logit_bias: float | None = None


def model_cfg(given: Any, *, where: str) -> ModelCfg:
    """Check a ``model_cfg``.

    Args:
        given: its values, which may be anything.
        where: the file, for messages.

    Raises:
        UserError: a setting that is missing, unknown, of another kind, or of a network that mmlight
            does not have.
    """
    known = ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "init_logit_bias")
    own = _known(given, known, where=where, name="model_cfg")
    for name in known[:3]:
        if name not in own:
            raise UserError(f"{where}: model_cfg has no {name}")
    if type(own["embed_dim"]) is not int or own["embed_dim"] < 1:
        raise UserError(f"{where}: model_cfg.embed_dim is {own['embed_dim']!r}, not a width")
    bias = own.get("init_logit_bias")
    if bias is not None and type(bias) not in (int, float):
        raise UserError(f"{where}: model_cfg.init_logit_bias is {bias!r}, not a number")
    vision: VisionCfg = _settings(own["vision_cfg"], VisionCfg, where, "vision_cfg")
    text: TextCfg = _settings(own["text_cfg"], TextCfg, where, "text_cfg")
    return ModelCfg(
        own["embed_dim"],
        vision,
        text,
        quick_gelu=bool(own.get("quick_gelu")),
        init_logit_bias=None if bias is None else float(bias),
    )


def clap_cfg(given: Any, *, where: str) -> ModelCfg:
    """Check a ``model_cfg`` of CLAP but for its ``audio_cfg``; of its vision nothing is said."""
    plain = given if isinstance(given, Mapping) else {}
    own = {name: value for name, value in plain.items() if name != "audio_cfg"}
    return model_cfg(own | {"vision_cfg": {}}, where=where)


def _known(given: Any, known: Any, *, where: str, name: str) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise UserError(f"{where}: {name} is no mapping of settings")
    own: dict[str, Any] = {}
    for key, value in given.items():
        if key in known:
            own[key] = value
        elif key in _NO_MATTER[name] or value is None:
            continue
        elif key not in _WITHOUT:
            close = nearest(str(key), known)
            raise UserError(f"{where}: {name}.{key} is not known{close}; nothing was read")
        elif value != _WITHOUT[key]:
            raise UserError(f"{where}: {name}.{key}: mmlight has no encoder with such layers")
    return own


def _settings(given: Any, kind: Any, where: str, name: str) -> Any:
    known = {one.name: one for one in fields(kind)}
    own = _known(given, known, where=where, name=name)
    for key, value in own.items():
        if key == "image_size" and isinstance(value, list) and len(set(value)) == 1:
            own[key] = value = value[0]
        default = known[key].default
        if default is None or key in ("layers", "attentional_pool") or value is None:
            continue
        kinds = (int, float) if isinstance(default, float) else (type(default),)
        if key == "patch_size":
            kinds = (int,)
        if type(value) not in kinds or (type(value) is int and value < 1):
            raise UserError(f"{where}: {name}.{key} cannot be {value!r:.60}")
    return kind(**{key: value for key, value in own.items() if value is not None or key in _NONE})


# Where nothing is a value of its own.
_NONE = ("timm_proj", "hf_proj_type", "hf_pooler_type", "patch_size")
