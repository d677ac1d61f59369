"""Writes a contrastive model as the folder of transformers that `from_pretrained` loads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from mmlight.errors import UserError
from mmlight.files import write_bytes, write_json, write_text
from mmlight.published.hf.folder import (
    CONFIG,
    PREPROCESSOR,
    TOKENIZER,
    TOKENIZER_CONFIG,
    WEIGHTS,
)
from mmlight.published.hf.image_processor import write_processor
from mmlight.published.hf.kinds import CLIP_LOSS, CONTRASTIVE, KINDS, Kind, TowerKind
from mmlight.saved.checkpoint import Saved
from mmlight.text.json_tokenizer import JsonTokenizer, tokenizer_config
from mmlight.text.saved_tokenizer import tokenizer_from_state

_NO = "transformers has no form for "


def write_transformers(folder: Path, saved: Saved) -> list[str]:
    """Write a model's config, weights, tokenizer and the preparation of its inputs.

    Args:
        folder: where; it is made.
        saved: a contrastive task, without adapters.

    Returns:
        Lines on what the folder cannot say.

    Raises:
        UserError: transformers has no model of these parts; nothing is written.
    """
    arguments = saved.description["init_args"]
    if saved.description["class_path"] != CONTRASTIVE:
        name = str(saved.description["class_path"]).rpartition(".")[2]
        raise UserError(f"{_NO}a {name} task; it has one for contrastive models")
    towers = {name: tower for name, tower in arguments["towers"].items() if tower}
    kind = _kind(towers)
    objective = arguments.get("objective") or {}
    loss = objective.get("class_path") or CLIP_LOSS
    if loss != kind.objective and not (kind.bias and loss == CLIP_LOSS):
        raise UserError(f"{_NO}a {kind.architecture} with the objective {loss.rpartition('.')[2]}")
    preprocessing = saved.preprocessing or {}
    notes: list[str] = []
    tokenizer = _tokenizer(preprocessing.get("text") or {}, towers["text"], kind, notes)
    files: dict[str, Any] = {CONFIG: _config(kind, towers, tokenizer, arguments)}
    files[PREPROCESSOR] = _preprocessor(kind, towers, preprocessing)
    tensors = _their_names(saved.tensors, kind)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_json(folder / name, content)
    write_text(folder / TOKENIZER, str(tokenizer.state()["text"]))
    most = int((preprocessing.get("text") or {}).get("max_tokens") or 77)
    write_text(folder / TOKENIZER_CONFIG, tokenizer_config(tokenizer, max_tokens=most))
    write_bytes(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    return notes


def _kind(towers: Mapping[str, Any]) -> Kind:
    """Return the model that has these towers and projections."""
    types = {
        name: (tower["encoder"]["init_args"].get("config") or {}).get("model_type")
        if isinstance(tower["encoder"]["init_args"].get("config"), Mapping)
        else None
        for name, tower in towers.items()
    }
    for kind in KINDS.values():
        wanted = {str(tower.modality): tower.model_type for tower in kind.towers}
        if wanted == types:
            for tower in kind.towers:
                _check_tower(towers[tower.modality], tower, kind)
            return kind
    has = " and ".join(
        f"{name}: {types[name] or tower['encoder']['class_path'].rpartition('.')[2]}"
        for name, tower in towers.items()
    )
    raise UserError(
        f"{_NO}these towers ({has}); it has one for "
        + ", ".join(
            f"{k.architecture} ({' and '.join(t.model_type for t in k.towers)})"
            for k in KINDS.values()
        )
    )


def _check_tower(tower: Mapping[str, Any], wanted: TowerKind, kind: Kind) -> None:
    name = wanted.modality
    pool = tower["encoder"]["init_args"].get("pool")
    if pool != wanted.pool:
        raise UserError(
            f"{_NO}a {kind.architecture} whose {name} tower pools by '{pool}'; it pools by "
            f"'{wanted.pool}'"
        )
    if tower.get("pieces") == "attention":
        raise UserError(f"{_NO}a {kind.architecture} whose {name} tower attends to frames")
    projection = tower.get("projection") or "linear"
    has = {"kind": projection} if isinstance(projection, str) else dict(projection)
    usual = {"kind": "linear", "bias": False, "activation": "gelu"}
    has, needs = usual | has, usual | dict(wanted.projection)
    if any(has[key] != value for key, value in needs.items()):
        said = ", ".join(f"{key}: {has[key]}" for key in needs if has[key] != needs[key])
        need = ", ".join(f"{key}: {needs[key]}" for key in needs if has[key] != needs[key])
        raise UserError(
            f"{_NO}a {kind.architecture} whose {name} projection has {said}; it has {need}"
        )


def _config(
    kind: Kind,
    towers: Mapping[str, Any],
    tokenizer: JsonTokenizer,
    arguments: Mapping[str, Any],
) -> dict[str, Any]:
    width = int(arguments.get("embed_dim") or 512)
    parts: dict[str, Any] = {}
    for tower in kind.towers:
        config = towers[tower.modality]["encoder"]["init_args"]["config"]
        own = {name: config[name] for name in tower.fields if config.get(name) is not None}
        if "projection_dim" in tower.fields or kind.name == "clap":
            own["projection_dim"] = width
        if tower.modality == "text":
            ids = {"bos": tokenizer.start_id, "eos": tokenizer.end_id, "pad": tokenizer.pad_id}
            if tower.model_type == "roberta":
                del ids["pad"]  # from which its positions are counted
            own |= {f"{name}_token_id": number for name, number in ids.items()}
        parts[tower.config] = {"model_type": tower.their_type or tower.model_type} | own
    whole: dict[str, Any] = {"projection_dim": width} if "siglip" not in kind.name else {}
    if kind.name == "clap":
        whole |= {"projection_hidden_act": "relu"}
    return {
        "model_type": kind.name,
        "architectures": [kind.architecture],
        "dtype": "float32",
        **whole,
        **parts,
    }


def _preprocessor(
    kind: Kind, towers: Mapping[str, Any], preprocessing: Mapping[str, Any]
) -> dict[str, Any]:
    first = kind.towers[0].modality
    encoder = towers[first]["encoder"]["init_args"]
    if first == "audio":
        named = {"feature_extractor_type": "ClapFeatureExtractor"}
        return named | dict(encoder.get("features") or {})
    patch = encoder["config"].get("patch_size") or 16
    return write_processor(
        preprocessing["image"],
        kind=kind.name,
        mean=encoder["mean"],
        std=encoder["std"],
        patch=int(patch),
    )


def _tokenizer(
    text: Mapping[str, Any], tower: Mapping[str, Any], kind: Kind, notes: list[str]
) -> JsonTokenizer:
    tokenizer = tokenizer_from_state(text.get("tokenizer"))
    if not isinstance(tokenizer, JsonTokenizer):
        raise UserError(
            f"{_NO}a {type(tokenizer).__name__}; it has one for a tokenizer.json (such as "
            "`mmlight tokenizer train` makes)"
        )
    if kind.name == "clip" and tokenizer.end_id in (None, 2):
        raise UserError(
            f"{_NO}a CLIPModel whose texts end with id {tokenizer.end_id}: it reads their features "
            "at the end token, and takes 2 for a sign of older releases"
        )
    if (clean := text.get("clean") or "none") != "none":
        notes.append(
            f"texts were cleaned (data.text.clean: {clean}), which a tokenizer of transformers "
            "doesn't do: clean them before"
        )
    return tokenizer


def _their_names(ours: Mapping[str, Tensor], kind: Kind) -> dict[str, Tensor]:
    theirs: dict[str, Tensor] = {}
    for tower in kind.towers:
        before = f"towers.{tower.modality}."
        for name, tensor in ours.items():
            if name.startswith(f"{before}encoder.model."):
                theirs[tower.prefix + name.removeprefix(f"{before}encoder.model.")] = tensor
        for their_name, our_name in tower.names.items():
            theirs[their_name] = ours[f"{before}projection.{our_name}"]
        if "embeddings.token_type_ids" in tower.buffers:  # a part of CLAP's files
            count = len(ours[f"{before}encoder.model.embeddings.position_embeddings.weight"])
            theirs[f"{tower.prefix}embeddings.position_ids"] = torch.arange(count)[None]
            theirs[f"{tower.prefix}embeddings.token_type_ids"] = torch.zeros(1, count).long()
    shape = (1,) if kind.bias else ()
    for name in kind.scales:
        theirs[name] = ours["objective.log_scale"].reshape(shape)
    if kind.bias:
        bias = ours.get("objective.bias")
        theirs[kind.bias] = torch.zeros(1) if bias is None else bias.reshape(1)
    return {name: t.detach().cpu().clone().contiguous() for name, t in theirs.items()}
