"""Which models of transformers are read and written, and what their parts are called here.

Names of tensors inside a tower are transformers' own, since the towers are its models; only what
stands before them differs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmlight.modality import Modality

IMAGE, TEXT, AUDIO = (
    "mmlight.encoders.hf_image.HfImage",
    "mmlight.encoders.hf_text.HfText",
    "mmlight.encoders.hf_audio.HfAudio",
)
CONTRASTIVE = "mmlight.tasks.contrastive.Contrastive"
CLIP_LOSS = "mmlight.objectives.clip.Clip"
SIGLIP_LOSS = "mmlight.objectives.siglip.SigLip"


@dataclass(frozen=True)
class TowerKind:
    """A tower of a model of transformers.

    Attributes:
        modality: what it encodes.
        config: its part of the model's config.
        prefix: what stands before its tensors' names.
        encoder: the class that runs it here.
        model_type: what that is built from.
        pool: that gives what the model itself projects.
        fields: of its config that decide what it computes, with transformers' defaults where ours
            are others; None is left to the class.
        their_type: its own model_type, where that is another.
        projection: what of the settings of its projection is not the default.
        names: its projection's tensors: ours by theirs.
        buffers: tensors that say nothing and are not read.
    """

    modality: Modality
    config: str
    prefix: str
    encoder: str
    model_type: str
    pool: str
    fields: Mapping[str, Any]
    their_type: str = ""
    projection: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    buffers: tuple[str, ...] = ("embeddings.position_ids",)


@dataclass(frozen=True)
class Kind:
    """A model with two towers.

    Attributes:
        name: its ``model_type``.
        architecture: its class.
        towers: its towers.
        objective: the loss that has its temperature, and its bias if there is one.
        scales: names of its temperatures, all of one pair; ours is the first. Of CLAP's two the
            second one has kept its start in the published checkpoints.
        bias: name of its bias, or empty.
    """

    name: str
    architecture: str
    towers: tuple[TowerKind, TowerKind]
    objective: str
    scales: tuple[str, ...] = ("logit_scale",)
    bias: str = ""


def _fields(names: str, **defaults: Any) -> dict[str, Any]:
    return dict.fromkeys(names.split()) | defaults


_LAYERS = "hidden_size intermediate_size num_hidden_layers num_attention_heads hidden_act "
_VIT = _LAYERS + "num_channels patch_size layer_norm_eps attention_dropout "
_WORDS = (
    _LAYERS + "vocab_size max_position_embeddings layer_norm_eps attention_dropout "
    "pad_token_id bos_token_id eos_token_id "
)
_MLP = {"kind": "mlp", "bias": True, "activation": "relu"}


def _linear(theirs: str) -> dict[str, str]:
    return {f"{theirs}.weight": "weight"}


def _two_layers(theirs: str) -> dict[str, str]:
    layers = (("linear1", 0), ("linear2", 2))
    return {f"{theirs}.{n}.{p}": f"{i}.{p}" for n, i in layers for p in ("weight", "bias")}


_CLIP_INIT = "projection_dim initializer_range initializer_factor"
_CLIP = (
    TowerKind(
        modality="image",
        config="vision_config",
        prefix="vision_model.",
        encoder=IMAGE,
        model_type="clip_vision_model",
        pool="model",
        fields=_fields(f"{_VIT} image_size {_CLIP_INIT}"),
        names=_linear("visual_projection"),
    ),
    TowerKind(
        modality="text",
        config="text_config",
        prefix="text_model.",
        encoder=TEXT,
        model_type="clip_text_model",
        pool="last",
        fields=_fields(f"{_WORDS} {_CLIP_INIT}"),
        names=_linear("text_projection"),
    ),
)


def _siglip(version: str, size: str) -> tuple[TowerKind, TowerKind]:
    return (
        TowerKind(
            modality="image",
            config="vision_config",
            prefix="vision_model.",
            encoder=IMAGE,
            model_type=f"siglip{version}_vision_model",
            pool="model",
            fields=_fields(f"{_VIT} {size} vision_use_head"),
            projection={"kind": "none"},
        ),
        TowerKind(
            modality="text",
            config="text_config",
            prefix="text_model.",
            encoder=TEXT,
            model_type=f"siglip{version}_text_model",
            pool="model",
            fields=_fields(f"{_WORDS} projection_size"),
            projection={"kind": "none"},
        ),
    )


_CLAP = (
    TowerKind(
        modality="audio",
        config="audio_config",
        prefix="audio_model.",
        encoder=AUDIO,
        model_type="clap_audio_model",
        pool="model",
        fields=_fields(
            "window_size num_mel_bins spec_size hidden_act patch_size patch_stride num_classes "
            "hidden_size depths num_attention_heads enable_fusion hidden_dropout_prob fusion_type "
            "patch_embed_input_channels flatten_patch_embeds patch_embeds_hidden_size "
            "enable_patch_layer_norm drop_path_rate attention_probs_dropout_prob qkv_bias "
            "mlp_ratio aff_block_r num_hidden_layers layer_norm_eps initializer_factor"
        ),
        projection=_MLP,
        names=_two_layers("audio_projection"),
        buffers=(),
    ),
    TowerKind(
        modality="text",
        config="text_config",
        prefix="text_model.",
        encoder=TEXT,
        model_type="roberta",
        their_type="clap_text_model",
        pool="model",
        fields={
            "vocab_size": 50265,
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1,
            "max_position_embeddings": 514,
            "type_vocab_size": 1,
            "layer_norm_eps": 1e-12,
            "pad_token_id": 1,
            "bos_token_id": 0,
            "eos_token_id": 2,
        },
        projection=_MLP,
        names=_two_layers("text_projection"),
        buffers=("embeddings.position_ids", "embeddings.token_type_ids"),
    ),
)

_SIGLIP, _SIGLIP2 = _siglip("", "image_size"), _siglip("2", "num_patches")
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("clip", "CLIPModel", _CLIP, CLIP_LOSS),
        Kind("siglip", "SiglipModel", _SIGLIP, SIGLIP_LOSS, bias="logit_bias"),
        Kind("siglip2", "Siglip2Model", _SIGLIP2, SIGLIP_LOSS, bias="logit_bias"),
        Kind("clap", "ClapModel", _CLAP, CLIP_LOSS, scales=("logit_scale_a", "logit_scale_t")),
    )
}
