"""CLAP's audio tower of open_clip (HTSAT, arXiv 2202.00874) as an encoder of ours.

It is transformers' CLAP tower under other names. The log-mel that it computes by layers of its own,
and what it classified sounds by, take no part.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from mmlight.errors import UserError, nearest
from mmlight.published.open_clip.tensors import Move, Plan, both

_ENCODER = "mmlight.encoders.hf_audio.HfAudio"
_STEM, _MODEL = "audio.encoder.", "encoder.model.audio_encoder."
_SIZES: dict[str, tuple[int, tuple[int, ...]]] = {
    "tiny": (96, (2, 2, 6, 2)),
    "base": (128, (2, 2, 12, 2)),
    "large": (256, (2, 2, 12, 2)),
}
_HEADS = (4, 8, 16, 32)
_SPECTROGRAM, _WINDOW, _PATCH = 256, 8, 4
_LAYERS = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
# Whatever these are set to, the embeddings are the same.
_NO_MATTER = ("audio_length", "pretrained")


@dataclass(frozen=True)
class AudioCfg:
    """``audio_cfg``: what decides which network an audio tower is; see open_clip's own."""

    model_type: str = "HTSAT"
    model_name: str = "tiny"
    clip_samples: int = 480_000
    sample_rate: int = 48_000
    mel_bins: int = 64
    window_size: int = 1024
    hop_size: int = 480
    fmin: int = 50
    fmax: int = 14_000
    class_num: int = 527
    enable_fusion: bool = False
    fusion_type: str = "aff_2d"
    pre_norm: bool = False
    proj_act: str = "gelu"
    training_head: bool = False


def audio_cfg(given: Any, *, where: str) -> AudioCfg:
    """Check an ``audio_cfg``.

    Args:
        given: its values, which may be anything.
        where: the file, for messages.

    Raises:
        UserError: a setting that is unknown, of another kind, or of a network that mmlight does not
            have.
    """
    if not isinstance(given, Mapping):
        raise UserError(f"{where}: audio_cfg is no mapping of settings")
    kind = given.get("model_type", "HTSAT")
    if kind != "HTSAT":
        raise UserError(
            f"{where}: audio_cfg.model_type: {kind!r:.60}: mmlight has an encoder for HTSAT alone"
        )
    known = {one.name: type(one.default) for one in fields(AudioCfg)}
    own = {name: value for name, value in given.items() if name not in _NO_MATTER}
    for name, value in own.items():
        if name not in known:
            raise UserError(
                f"{where}: audio_cfg.{name} is not known{nearest(str(name), known)}; nothing was "
                "read"
            )
        if type(value) is not known[name] or (type(value) is int and value < 0):
            raise UserError(f"{where}: audio_cfg.{name} cannot be {value!r:.60}")
    cfg = AudioCfg(**own)
    acts, fusions = ("gelu", "relu"), ("aff_2d",)
    if (
        cfg.pre_norm
        or cfg.training_head
        or cfg.proj_act not in acts
        or (cfg.enable_fusion and cfg.fusion_type not in fusions)
        or cfg.model_name not in _SIZES
        or not 0 < cfg.mel_bins <= _SPECTROGRAM
        or 0 in (cfg.clip_samples, cfg.sample_rate, cfg.window_size, cfg.hop_size)
    ):
        raise UserError(
            f"{where}: audio_cfg: mmlight has an encoder for model_name {', '.join(_SIZES)}, "
            f"proj_act {' or '.join(acts)}, fusion_type aff_2d, without pre_norm and training_head"
        )
    return cfg


def audio_settings(cfg: AudioCfg) -> dict[str, Any]:
    """Return how sounds are prepared, in our settings."""
    return {
        "sample_rate_hz": cfg.sample_rate,
        "max_seconds": cfg.clip_samples / cfg.sample_rate,
        "eval_crop": "start",
    }


def plan_audio(cfg: AudioCfg, *, embed_dim: int) -> Plan:
    """Return how an audio tower becomes one of ours."""
    width, depths = _SIZES[cfg.model_name]
    config = {
        "model_type": "clap_audio_model",
        "window_size": _WINDOW,
        "num_mel_bins": cfg.mel_bins,
        "spec_size": _SPECTROGRAM,
        "patch_size": _PATCH,
        "patch_stride": [_PATCH, _PATCH],
        "num_classes": cfg.class_num,
        "hidden_size": width * 2 ** (len(depths) - 1),
        "depths": list(depths),
        "num_hidden_layers": len(depths),
        "num_attention_heads": list(_HEADS),
        "patch_embeds_hidden_size": width,
        "enable_fusion": cfg.enable_fusion,
        "fusion_type": cfg.fusion_type if cfg.enable_fusion else None,
        "hidden_dropout_prob": 0.0,
        "drop_path_rate": 0.1,
        "layer_norm_eps": 1e-5,
    }
    seconds = cfg.clip_samples / cfg.sample_rate
    features = {
        "feature_size": cfg.mel_bins,
        "sampling_rate": cfg.sample_rate,
        "hop_length": cfg.hop_size,
        "fft_window_size": cfg.window_size,
        "max_length_s": int(seconds) if seconds.is_integer() else seconds,
        "frequency_min": cfg.fmin,
        "frequency_max": cfg.fmax,
        "truncation": "fusion" if cfg.enable_fusion else "rand_trunc",
        "padding": "repeatpad",
    }
    arguments = {"config": config, "pool": "model", "features": features}
    moves = [*both("audio.proj.0", "projection.0"), *both("audio.proj.2", "projection.2")]
    masks = []
    for stage, depth in enumerate(depths):
        for block in range(depth):
            at = f"layers.{stage}.blocks.{block}."
            moves += _block(_STEM + at, _MODEL + at)
            masks.append(f"{_STEM}{at}attn_mask")
    names = {"bn0.": "batch_norm.", "patch_embed.": "patch_embed.", "norm.": "norm."}
    names["layers."] = "layers."  # what is left of them: the merging of patches
    return Plan(
        {"class_path": _ENCODER, "init_args": arguments},
        {"kind": "mlp", "bias": True, "hidden": embed_dim, "activation": cfg.proj_act},
        moves,
        tuple((_STEM + theirs, _MODEL + ours) for theirs, ours in names.items()),
        ignored=(
            *(f"{_STEM}{part}." for part in ("spectrogram_extractor", "logmel_extractor")),
            *(f"{_STEM}{part}." for part in ("tscam_conv", "head")),
            *masks,
        ),
    )


def _block(theirs: str, ours: str) -> list[Move]:
    moves = [move for a, b in _LAYERS.items() for move in both(theirs + a, ours + b)]
    parts = [f"{ours}attention.self.{name}" for name in ("query", "key", "value")]
    for end in ("weight", "bias"):
        names = tuple(f"{part}.{end}" for part in parts)
        moves.append(Move((f"{theirs}attn.qkv.{end}",), names, "thirds"))
    for name in ("relative_position_bias_table", "relative_position_index"):
        moves.append(Move((f"{theirs}attn.{name}",), (f"{ours}attention.self.{name}",)))
    return moves
