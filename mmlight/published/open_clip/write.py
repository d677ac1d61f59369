"""Writes a contrastive model of ours as a folder that open_clip loads."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from mmlight.errors import UserError
from mmlight.files import write_bytes, write_json, write_text
from mmlight.published.open_clip.files import CONFIG, TEXT_CONFIG, WEIGHTS
from mmlight.published.open_clip.read import CLIP, CONTRASTIVE, MEAN, SIGLIP, STD
from mmlight.published.open_clip.settings import model_cfg
from mmlight.published.open_clip.tensors import Plan
from mmlight.published.open_clip.text import HF, plan_text, text_cfg
from mmlight.published.open_clip.tokenizer import cleaning_name
from mmlight.published.open_clip.vision import COCA, TIMM, plan_vision, vision_cfg
from mmlight.saved.checkpoint import Saved
from mmlight.text.clip_tokenizer import ClipBpe
from mmlight.text.json_tokenizer import JsonTokenizer, tokenizer_config
from mmlight.text.saved_tokenizer import tokenizer_from_state

_WHERE = "open_clip"
_RESIZE = {"center": "shortest", "squash": "squash"}
# What of an encoder's arguments decides which network it is.
_NETWORK = ("name", "kwargs", "img_size", "pool", "config", "pool_dim", "pool_heads")


def write_open_clip(folder: Path, saved: Saved) -> list[str]:
    """Write a model's config, weights and tokenizer.

    Args:
        folder: where; it exists.
        saved: the model, of our task `Contrastive`, without adapters.

    Returns:
        The names of the files.

    Raises:
        UserError: open_clip has no form for it; then nothing was written.
    """
    arguments = saved.description["init_args"]
    towers = {name: tower for name, tower in arguments["towers"].items() if tower}
    if saved.description["class_path"] != CONTRASTIVE or set(towers) != {"image", "text"}:
        what = saved.description["class_path"].rpartition(".")[2]
        raise UserError(
            f"{_WHERE} is written with towers of image and text, not a {what} of "
            f"{', '.join(towers)} (a CLAP goes by way of --format transformers)"
        )
    towers = {name: _whole(tower) for name, tower in towers.items()}
    prepared = saved.preprocessing or {}
    text = prepared.get("text") or {}
    vision = vision_cfg(towers["image"], where=_WHERE)
    words, hf_config = text_cfg(towers["text"], text=text, where=_WHERE)
    acts = _quick_gelu(towers)
    bias = saved.tensors.get("objective.bias")
    objective = (arguments.get("objective") or {}).get("class_path", CLIP)
    if objective not in (CLIP, SIGLIP):
        raise UserError(f"{_WHERE} has the losses of CLIP and SigLIP, not {objective}")
    cfg: dict[str, Any] = {
        "embed_dim": arguments["embed_dim"],
        "quick_gelu": acts,
        "custom_text": _needs_own_module(words),
        "vision_cfg": {key: value for key, value in vision.items() if value is not None},
        "text_cfg": words,
    }
    if vision.get("patch_size", 0) is None:
        cfg["vision_cfg"]["patch_size"] = None
    if bias is not None:
        cfg["init_logit_bias"] = float(bias[0])
    tokenizer = text.get("tokenizer")
    files = _tokenizer_files(tokenizer, words)
    image = towers["image"]["encoder"]["init_args"]
    known = model_cfg(cfg, where=_WHERE)
    plans = {
        "image": plan_vision(
            known.vision,
            embed_dim=known.embed_dim,
            quick_gelu=known.quick_gelu,
            inputs={},
            where=_WHERE,
        ),
        "text": plan_text(
            known.text,
            embed_dim=known.embed_dim,
            quick_gelu=known.quick_gelu,
            pad_id=(tokenizer or {}).get("pad_id"),
            model=hf_config,
            where=_WHERE,
        ),
    }
    for name, plan in plans.items():
        _check_same(name, plan, towers[name])
    tensors = _tensors(saved, plans, top_level=not cfg["custom_text"])
    preprocess = {
        "mean": image.get("mean") or MEAN,
        "std": image.get("std") or STD,
        **_geometry(prepared.get("image") or {}),
    }
    write_json(folder / CONFIG, {"model_cfg": cfg, "preprocess_cfg": preprocess})
    write_bytes(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    if hf_config is not None:
        files[TEXT_CONFIG] = json.dumps(hf_config, indent=2) + "\n"
    for file, content in files.items():
        write_text(folder / file, content)
    return [CONFIG, WEIGHTS, *files]


def _whole(tower: dict[str, Any]) -> dict[str, Any]:
    projection = tower.get("projection") or "linear"
    given = projection if isinstance(projection, dict) else {"kind": projection}
    whole = {"kind": "linear", "bias": False, "hidden": None, "activation": "gelu"} | given
    if whole["activation"] != "gelu":
        raise UserError(f"{_WHERE} has no projection with {whole['activation']}")
    return tower | {"projection": whole}


def _quick_gelu(towers: dict[str, Any]) -> bool:
    """Return whether OpenAI's fast GELU is used; it is one setting for both towers."""
    used = []
    image, text = (towers[name]["encoder"] for name in ("image", "text"))
    kwargs = image["init_args"].get("kwargs") or {}
    if image["class_path"] in (TIMM, COCA) and "patch_size" in kwargs:
        used.append(kwargs.get("act_layer") == "quick_gelu")
    config = text["init_args"]["config"]
    if config["model_type"] in ("clip_text_model", "siglip_text_model"):
        used.append(config["hidden_act"] == "quick_gelu")
    if len(set(used)) > 1:
        raise UserError(f"{_WHERE} has one setting, quick_gelu, for both towers; here they differ")
    return bool(used and used[0])


def _needs_own_module(words: dict[str, Any]) -> bool:
    kinds = ("hf_model_name", "no_causal_mask", "embed_cls", "proj_bias")
    return any(words.get(kind) for kind in kinds) or words.get("proj_type") == "none"


def _check_same(name: str, plan: Plan, tower: dict[str, Any]) -> None:
    """Refuse a tower whose network open_clip's settings would not bring back."""
    ours, theirs = tower["encoder"], plan.encoder
    differs = ours["class_path"] != theirs["class_path"] or [
        f"{key} {own!r:.80} would be {back!r:.80}"
        for key in _NETWORK
        if (back := theirs["init_args"].get(key)) is not None
        and not _same(own := ours["init_args"].get(key), back)
        and own is not None
    ]
    kinds = [p | {"hidden": None} for p in (tower["projection"], plan.projection)]
    same_kind = all(kinds[0].get(k) == kinds[1].get(k, False) for k in ("kind", "bias"))
    hidden = tower["projection"]["hidden"], plan.projection.get("hidden")
    if not same_kind or hidden[0] != hidden[1]:
        differs = [f"projection {tower['projection']} would be {plan.projection}"]
    if differs:
        said = differs[0] if isinstance(differs, list) else ours["class_path"]
        raise UserError(f"{_WHERE} has no form for this {name} tower: {said}")


def _same(own: Any, back: Any) -> bool:
    if isinstance(back, dict) and isinstance(own, dict):
        # Special tokens take no part in a text tower.
        skipped = ("bos_token_id", "eos_token_id", "pad_token_id")
        return all(own.get(k) == v for k, v in back.items() if k not in skipped)
    return bool(own == back)


def _tensors(saved: Saved, plans: dict[str, Plan], *, top_level: bool) -> dict[str, Tensor]:
    found = {
        name: tensor.detach().cpu().clone().contiguous() for name, tensor in saved.tensors.items()
    }
    scale = found.pop("objective.log_scale")
    if scale.numel() != 1:
        raise UserError(f"{_WHERE} has one pair of modalities; this loss has {scale.numel()}")
    theirs = {"logit_scale": scale.reshape(())}
    if (bias := found.pop("objective.bias", None)) is not None:
        theirs["logit_bias"] = bias.reshape(())
    for name, plan in plans.items():
        prefix = f"towers.{name}."
        own = {n.removeprefix(prefix): found.pop(n) for n in list(found) if n.startswith(prefix)}
        for zero in plan.zeros:
            if zero in own and bool(own[zero].any()) and not _takes_no_part(zero, plan):
                raise UserError(f"{_WHERE} has no {zero} in this {name} tower, and here it isn't 0")
        try:
            theirs |= plan.write(own)
        except KeyError as error:
            raise UserError(f"{_WHERE}: the {name} tower lacks {error.args[0]}") from error
        if own:
            raise UserError(f"{_WHERE} has no {next(iter(own))} in this {name} tower")
    if found:
        raise UserError(f"{_WHERE} has no form for {next(iter(found))}")
    if top_level:
        theirs = {n.removeprefix("text."): tensor for n, tensor in theirs.items()}
    return {name: tensor.contiguous() for name, tensor in theirs.items()}


def _takes_no_part(name: str, plan: Plan) -> bool:
    """Say whether a tensor is of a head that is not used: texts are pooled by their last token."""
    return plan.encoder["class_path"] == HF and plan.encoder["init_args"].get("pool") == "last"


def _geometry(image: dict[str, Any]) -> dict[str, Any]:
    crop = image.get("eval_crop") or "center"
    if crop not in _RESIZE or (image.get("crop_pct") or 1.0) != 1.0:
        raise UserError(
            f"{_WHERE} scales images to the size that it cuts or squashes; this model's "
            f"data.image.eval_crop is {crop} and crop_pct {image.get('crop_pct')}"
        )
    return {
        "interpolation": image.get("interpolation") or "bicubic",
        "resize_mode": _RESIZE[crop],
        **({"size": image["size"]} if image.get("size") else {}),
    }


def _tokenizer_files(state: Any, words: dict[str, Any]) -> dict[str, str]:
    """Return the files of a tokenizer that open_clip reads by transformers."""
    if state is None:
        return {}
    tokenizer = tokenizer_from_state(state)
    if isinstance(tokenizer, ClipBpe):
        clean = cleaning_name(state.get("clean", "clip"))
        if clean not in (None, "lower"):
            words["tokenizer_kwargs"] = {"clean": clean}
        # The merges themselves: open_clip has its own, and mmlight finds them here without it.
        return {"merges.txt": f"#version: 0.2\n{state['merges']}\n"}
    if not isinstance(tokenizer, JsonTokenizer):
        raise UserError(
            f"{_WHERE} has tokenizers of CLIP and of transformers (tokenizer.json), not a "
            f"{type(tokenizer).__name__}"
        )
    clean = cleaning_name(state.get("clean", "none"))
    if clean is None:
        raise UserError(f"{_WHERE} has no tokenizer that cleans texts by {state['clean']}")
    words.setdefault("hf_tokenizer_name", "tokenizer.json")
    words["tokenizer_kwargs"] = {"clean": clean}
    return {
        "tokenizer.json": str(state["text"]),
        "tokenizer_config.json": tokenizer_config(tokenizer),
    }
