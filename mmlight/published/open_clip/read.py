"""Reads a model of open_clip: its image or audio tower, its text tower, what its loss learned."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mmlight.errors import UserError
from mmlight.published.open_clip.audio import audio_cfg, audio_settings, plan_audio
from mmlight.published.open_clip.files import find_weights, read_config, text_config
from mmlight.published.open_clip.settings import ModelCfg, clap_cfg, model_cfg
from mmlight.published.open_clip.tensors import Plan
from mmlight.published.open_clip.text import plan_text
from mmlight.published.open_clip.tokenizer import read_tokenizer
from mmlight.published.open_clip.vision import plan_vision
from mmlight.published.weights import read_weights
from mmlight.saved.checkpoint import Saved

CONTRASTIVE = "mmlight.tasks.contrastive.Contrastive"
CLIP = "mmlight.objectives.clip.Clip"
SIGLIP = "mmlight.objectives.siglip.SigLip"
MEAN = [0.48145466, 0.4578275, 0.40821073]
STD = [0.26862954, 0.26130258, 0.27577711]
# Before towers of text had a module of their own.
_OLD_TEXT = (
    "text_projection",
    "positional_embedding",
    "token_embedding.",
    "transformer.",
    "ln_final.",
    "cls_emb",
)
# Not the model's: buffers of earlier versions, and CoCa's decoder, which writes captions.
_NO_PART = ("attn_mask", "text.attn_mask", "input_resolution", "context_length", "vocab_size")
_DECODER = "text_decoder."
_CROPS = {"shortest": "center", "squash": "squash"}
_SHOWN = 3


def read_open_clip(path: Path, *, key: str, arch: str | None = None) -> Saved:
    """Read a folder or a checkpoint of open_clip.

    Args:
        path: the folder, or a file of weights with its config beside it.
        key: the setting's name, for messages.
        arch: see `mmlight.published.open_clip.files.read_config`.

    Raises:
        UserError: it cannot be read, is of a network that mmlight does not have, or lacks tensors.
    """
    if not path.exists():
        raise UserError(f"{key}: {path}: no such file or folder")
    config, where = read_config(path, key=key, arch=arch)
    given = config["model_cfg"]
    is_clap = "audio_cfg" in given
    cfg = clap_cfg(given, where=where) if is_clap else model_cfg(given, where=where)
    folder = path if path.is_dir() else path.parent
    image = (
        None if is_clap else _image_settings(config.get("preprocess_cfg") or {}, cfg, where=where)
    )
    text = read_tokenizer(folder, given["text_cfg"], cfg.text, key=key)
    plans: dict[str, Plan] = {}
    if image is not None:
        plans["image"] = plan_vision(
            cfg.vision,
            embed_dim=cfg.embed_dim,
            quick_gelu=cfg.quick_gelu,
            inputs={"mean": image.pop("mean"), "std": image.pop("std")},
            where=where,
        )
    plans["text"] = plan_text(
        cfg.text,
        embed_dim=cfg.embed_dim,
        quick_gelu=cfg.quick_gelu,
        pad_id=(text.get("tokenizer") or {}).get("pad_id"),
        model=text_config(path, key=key),
        where=where,
    )
    audio = None
    if is_clap:
        heard = audio_cfg(given["audio_cfg"], where=where)
        plans["audio"] = plan_audio(heard, embed_dim=cfg.embed_dim)
        audio = audio_settings(heard)
    file = find_weights(path, key=key)
    found = _with_present_names(read_weights(file, key=key))
    return Saved(
        description=describe(cfg, plans),
        preprocessing={
            "image": image,
            "text": text,
            "audio": audio,
            "class_names": [],
            "published": {"format": "open_clip", "name": arch or folder.name},
        },
        tensors=take_tensors(found, plans, cfg, where=f"{key}: {file}"),
    )


def describe(cfg: ModelCfg, plans: Mapping[str, Plan]) -> dict[str, Any]:
    """Return the description that rebuilds the model as a task."""
    objective: dict[str, Any] = {"class_path": CLIP, "init_args": {}}
    if cfg.init_logit_bias is not None:
        start = {"init_scale": 10.0, "init_bias": cfg.init_logit_bias}
        objective = {"class_path": SIGLIP, "init_args": start}
    towers = {n: {"encoder": p.encoder, "projection": p.projection} for n, p in plans.items()}
    settings = {"towers": towers, "embed_dim": cfg.embed_dim, "objective": objective}
    return {"class_path": CONTRASTIVE, "init_args": settings}


def take_tensors(
    found: dict[str, Tensor], plans: Mapping[str, Plan], cfg: ModelCfg, *, where: str
) -> dict[str, Tensor]:
    """Return our state dict out of theirs.

    Args:
        found: theirs; what is taken is removed.
        plans: of the towers.
        cfg: the model's settings.
        where: the file, for messages.

    Raises:
        UserError: tensors are missing, or some are left over that the settings do not explain.
    """
    tensors: dict[str, Tensor] = {}
    missing: list[str] = []
    learned = {"logit_scale": "log_scale"}
    if cfg.init_logit_bias is not None:
        learned["logit_bias"] = "bias"
    for theirs, ours in learned.items():
        if theirs in found:
            tensors[f"objective.{ours}"] = found.pop(theirs).reshape(-1)
        else:
            missing.append(theirs)
    for name, plan in plans.items():
        own, lacking = plan.read(found)
        tensors |= {f"towers.{name}.{ours}": tensor for ours, tensor in own.items()}
        missing += lacking
    left = [n for n in found if n not in _NO_PART and not n.startswith(_DECODER)]
    if missing:
        raise UserError(f"{where}: lacks {_some(missing)} of the model that its config describes")
    if left:
        raise UserError(f"{where}: holds {_some(left)} besides, which its config says nothing of")
    if (problem := _misfit(tensors, cfg)) is not None:
        raise UserError(f"{where}: {problem}")
    return tensors


def _misfit(tensors: Mapping[str, Tensor], cfg: ModelCfg) -> str | None:
    places = tensors.get("towers.image.encoder.model.pos_embed")
    size, patch = cfg.vision.image_size, cfg.vision.patch_size
    if cfg.vision.timm_model_name is None and places is not None and patch is not None:
        expected = (size // patch) ** 2 + 1
        if places.shape[1] != expected:
            return (
                f"visual.positional_embedding has {places.shape[1]} places, but image_size {size} "
                f"in patches of {patch} makes {expected}"
            )
    return None


def _with_present_names(found: dict[str, Tensor]) -> dict[str, Tensor]:
    if found and all(name.startswith("module.") for name in found):  # DistributedDataParallel's
        found = {name.removeprefix("module."): tensor for name, tensor in found.items()}
    # What torch.compile put around a module.
    found = {re.sub(r"(^|\.)_orig_mod\.", r"\1", n): tensor for n, tensor in found.items()}
    return {f"text.{n}" if n.startswith(_OLD_TEXT) else n: t for n, t in found.items()}


def _image_settings(given: Any, cfg: ModelCfg, *, where: str) -> dict[str, Any]:
    """Return how images are prepared, in our settings, with the mean and deviation of pixels."""
    if not isinstance(given, Mapping):
        raise UserError(f"{where}: preprocess_cfg is no mapping of settings")
    size = given.get("size") or cfg.vision.image_size
    sides = set(size) if isinstance(size, list) else {size}
    if sides != {cfg.vision.image_size}:
        raise UserError(
            f"{where}: preprocess_cfg.size is {size}, but the image tower is for "
            f"{cfg.vision.image_size} pixels"
        )
    crop = _CROPS.get(given.get("resize_mode") or "shortest")
    filter_ = given.get("interpolation") or "bicubic"
    filter_ = "bicubic" if filter_ == "random" else filter_  # of training; evaluation's is this
    mean, std = given.get("mean") or MEAN, given.get("std") or STD
    numbers = all(
        isinstance(v, list | tuple) and len(v) == 3 and all(type(x) in (int, float) for x in v)
        for v in (mean, std)
    )
    if crop is None or filter_ not in ("bicubic", "bilinear") or not numbers:
        raise UserError(
            f"{where}: preprocess_cfg: resize_mode is shortest or squash, interpolation bicubic or "
            "bilinear, mean and std are three numbers each"
        )
    return {
        "size": cfg.vision.image_size,
        "channels": 3,
        "eval_crop": crop,
        "interpolation": filter_,
        "crop_pct": 1.0,
        "mean": [float(value) for value in mean],
        "std": [float(value) for value in std],
    }


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(sorted(names)[:_SHOWN]) + more
