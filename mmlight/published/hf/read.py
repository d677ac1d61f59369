"""Reads a folder of transformers with a whole CLIP, SigLIP, SigLIP 2 or CLAP model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mmlight.errors import UserError
from mmlight.modality import MODALITIES
from mmlight.published.hf.folder import (
    TOKENIZER_CONFIG,
    has_tokenizer,
    read_config,
    read_json,
    read_preprocessor,
    read_tensors,
)
from mmlight.published.hf.image_processor import geometry, normalisation, processor_settings
from mmlight.published.hf.kinds import CONTRASTIVE, KINDS, Kind, TowerKind
from mmlight.saved.checkpoint import Saved
from mmlight.text.json_tokenizer import HfTokenizer

# What of a feature extractor decides what CLAP reads, and is no setting of the data.
_CLAP_FEATURES = (
    "feature_size",
    "sampling_rate",
    "hop_length",
    "max_length_s",
    "fft_window_size",
    "padding_value",
    "frequency_min",
    "frequency_max",
    "truncation",
    "padding",
)


def read_transformers(folder: Path, *, key: str) -> Saved:
    """Read a model with its tokenizer and the preparation of its inputs.

    Args:
        folder: a folder with a ``config.json``, weights, a tokenizer and, where these are not
            the defaults of its class, the settings of its image processor or feature extractor.
        key: the setting that names it, for messages.

    Raises:
        UserError: a model of another kind, or one whose parts are missing or do not fit.
    """
    config = read_config(folder, key=key)
    kind = KINDS.get(config["model_type"])
    if kind is None:
        raise UserError(
            f"{key}: {folder} holds a '{config['model_type']}' of transformers; with two towers "
            f"{', '.join(KINDS)} can be read (take a single encoder by `mmlight import`, or by "
            "pretrained: in a tower's encoder)"
        )
    where = f"{key}: {folder}"
    tensors = _own_names(read_tensors(folder, key=key), kind, where=where)
    parts = {str(tower.modality): _part(config, tower, where=where) for tower in kind.towers}
    preprocessing: dict[str, Any] = dict.fromkeys((*MODALITIES, "class_names"))
    encoders: dict[str, dict[str, Any]] = {}
    for tower in kind.towers:
        own = parts[tower.modality]
        extra: dict[str, Any] = {}
        if tower.modality == "image":
            preprocessing["image"], extra = _images(folder, own, kind=kind.name, key=key)
        elif tower.modality == "audio":
            preprocessing["audio"], extra = _sounds(folder, own, key=key)
        else:
            preprocessing["text"] = _texts(folder, own, key=key)
            if kind.name.startswith("siglip"):  # what it was trained to see behind a text
                own["pad_token_id"] = int(preprocessing["text"].pop("pad_id"))
            preprocessing["text"].pop("pad_id", None)
        encoders[tower.modality] = {
            "class_path": tower.encoder,
            "init_args": {"config": own, "pool": tower.pool, **extra},
        }
    towers = {
        tower.modality: {
            "encoder": encoders[tower.modality],
            "projection": _projection(tower, tensors),
        }
        for tower in kind.towers
    }
    description = {
        "class_path": CONTRASTIVE,
        "init_args": {
            "towers": towers,
            "embed_dim": _joint_width(kind, tensors, parts),
            "objective": {"class_path": kind.objective, "init_args": {}},
        },
    }
    return Saved(description, preprocessing, tensors)


def _part(config: Mapping[str, Any], tower: TowerKind, *, where: str) -> dict[str, Any]:
    # Of two forms in files of older releases, the second one counts.
    said = config.get(f"{tower.config}_dict") or config.get(tower.config) or {}
    if not isinstance(said, dict):
        raise UserError(f"{where}: {tower.config} of its config is no mapping")
    fields = {name: said.get(name, default) for name, default in tower.fields.items()}
    if fields.get("vision_use_head") is False:
        raise UserError(f"{where}: an image tower without its head (vision_use_head: false)")
    own = {name: value for name, value in fields.items() if value is not None}
    return {"model_type": tower.model_type} | own


def _own_names(theirs: Mapping[str, Tensor], kind: Kind, *, where: str) -> dict[str, Tensor]:
    own: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in theirs.items():
        for tower in kind.towers:
            ours = f"towers.{tower.modality}."
            if name in tower.names:
                own[f"{ours}projection.{tower.names[name]}"] = tensor
                break
            if name.startswith(tower.prefix):
                rest = name.removeprefix(tower.prefix)
                if rest not in tower.buffers:
                    own[f"{ours}encoder.model.{rest}"] = tensor
                break
        else:
            if name not in (*kind.scales, kind.bias):
                unknown.append(name)
    wanted = [*kind.scales, *([kind.bias] if kind.bias else [])]
    wanted += [name for tower in kind.towers for name in tower.names]
    if missing := [name for name in wanted if name not in theirs]:
        raise UserError(f"{where} lacks {', '.join(missing[:3])} of a {kind.architecture}")
    if unknown:
        raise UserError(
            f"{where} holds {', '.join(unknown[:3])}, which a {kind.architecture} has not"
        )
    own["objective.log_scale"] = theirs[kind.scales[0]].reshape(1)
    if kind.bias:
        own["objective.bias"] = theirs[kind.bias].reshape(1)
    return own


def _projection(tower: TowerKind, tensors: Mapping[str, Tensor]) -> dict[str, Any] | str:
    settings = dict(tower.projection)
    if settings.get("kind") == "mlp":
        settings["hidden"] = len(tensors[f"towers.{tower.modality}.projection.0.bias"])
        return settings
    return str(settings.get("kind", "linear"))


def _joint_width(
    kind: Kind, tensors: Mapping[str, Tensor], parts: Mapping[str, Mapping[str, Any]]
) -> int:
    tower = kind.towers[0]
    if not tower.names:
        return int(parts[tower.modality].get("hidden_size", 768))
    last = list(tower.names.values())[-1].rpartition(".")[0]
    weight = f"{last}.weight" if last else "weight"
    return len(tensors[f"towers.{tower.modality}.projection.{weight}"])


def _images(
    folder: Path, own: Mapping[str, Any], *, kind: str, key: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of `data.image`, and the encoder's."""
    said = read_preprocessor(folder, "image_processor", key=key)
    settings = processor_settings(said, kind=kind)
    mean, std = normalisation(settings)
    image = geometry(settings, key=key) | {"channels": int(own.get("num_channels", 3))}
    side = own.get("image_size", 224)
    if kind != "siglip2" and image.get("size", side) != side:
        raise UserError(
            f"{key}: the image processor of {folder} makes images of {image['size']} pixels, but "
            f"its image tower takes {side}"
        )
    image.setdefault("size", side)
    return image, {"mean": list(mean), "std": list(std)}


def _sounds(
    folder: Path, own: dict[str, Any], *, key: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of `data.audio`, and the encoder's."""
    said = read_preprocessor(folder, "feature_extractor", key=key)
    features = {name: said[name] for name in _CLAP_FEATURES if said.get(name) is not None}
    bands, wanted = features.get("feature_size", 64), own.get("num_mel_bins", 64)
    if bands != wanted:
        raise UserError(
            f"{key}: the feature extractor of {folder} makes {bands} mel bands, but its audio "
            f"tower takes {wanted}"
        )
    audio = {
        "sample_rate_hz": int(features.get("sampling_rate", 48_000)),
        "max_seconds": float(features.get("max_length_s", 10)),
        "eval_crop": "start",
    }
    return audio, {"features": features}


def _texts(folder: Path, own: Mapping[str, Any], *, key: str) -> dict[str, Any]:
    """Return the settings of `data.text`, and the id of padding."""
    if not has_tokenizer(folder):
        raise UserError(f"{key}: {folder} has no tokenizer (tokenizer.json); put it beside")
    tokenizer = HfTokenizer(str(folder))
    words = int(own.get("vocab_size", tokenizer.vocab_size))
    if tokenizer.vocab_size > words:
        raise UserError(
            f"{key}: the tokenizer of {folder} has {tokenizer.vocab_size} ids, but its text tower "
            f"embeds {words}: it is another model's"
        )
    end = own.get("eos_token_id")
    is_pooled_at_end = own["model_type"] == "clip_text_model"
    # 2 stands in configs of older releases, whatever the end token is.
    if is_pooled_at_end and end not in (None, 2, tokenizer.end_id):
        raise UserError(
            f"{key}: the tokenizer of {folder} ends texts with id {tokenizer.end_id}, but its "
            f"text tower reads its features at id {end}: it is another model's"
        )
    most = int(own.get("max_position_embeddings", 64 if "siglip" in own["model_type"] else 77))
    if own["model_type"] == "roberta":
        most -= int(own["pad_token_id"]) + 1
    said = read_json(folder / TOKENIZER_CONFIG, key=key)
    if "siglip" in own["model_type"] and said.get("padding_side") == "left":
        raise UserError(
            f"{key}: the tokenizer of {folder} pads on the left, which a SigLIP here doesn't"
        )
    longest = said.get("model_max_length")
    if isinstance(longest, int) and 3 <= longest < most:
        most = longest
    return {
        "tokenizer": tokenizer.state(),
        "vocab_size": tokenizer.vocab_size,
        "max_tokens": most,
        "clean": "none",
        "pad_id": tokenizer.pad_id,
    }
