"""Text towers of open_clip as encoders of ours."""

from typing import Any

from mmlight.errors import UserError
from mmlight.published.open_clip.settings import TextCfg
from mmlight.published.open_clip.tensors import Move, Plan, both

HF = "mmlight.encoders.hf_text.HfText"
COCA = "mmlight.encoders.coca_text.CocaText"
_STEM = "text."
_MODEL = "encoder.model"
_POOLERS = {"mean_pooler": "mean", "cls_pooler": "model", "cls_last_hidden_state_pooler": "cls"}
_LAYERS = {
    "ln_1": "layer_norm1",
    "attn.out_proj": "self_attn.out_proj",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_ROBERTA = {
    "model_type": "roberta",
    "vocab_size": 50265,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
_LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
_XLM = {"model_type": "xlm-roberta", "vocab_size": 250002}
_BERT = {
    "model_type": "bert",
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}
# open_clip names a model of transformers, whose sizes are on a hub: those that it names itself.
MODELS: dict[str, dict[str, Any]] = {
    "roberta-base": _ROBERTA,
    "roberta-large": _ROBERTA | _LARGE,
    "xlm-roberta-base": _ROBERTA | _XLM,
    "xlm-roberta-large": _ROBERTA | _XLM | _LARGE,
    "bert-base-uncased": _BERT,
    "bert-base-cased": _BERT | {"vocab_size": 28996},
}


def plan_text(
    cfg: TextCfg,
    *,
    embed_dim: int,
    quick_gelu: bool,
    pad_id: int | None,
    model: dict[str, Any] | None,
    where: str,
) -> Plan:
    """Return how a text tower becomes one of ours.

    Args:
        cfg: its settings.
        embed_dim: width of the joint space.
        quick_gelu: whether transformers have OpenAI's fast GELU.
        pad_id: of the tokenizer; None takes the usual one.
        model: the config of its model of transformers, where the files hold it.
        where: the file, for messages.

    Raises:
        UserError: a network that mmlight has no encoder for.
    """
    if cfg.hf_model_name is not None:
        return _of_transformers(cfg, embed_dim=embed_dim, model=model, where=where)
    epsilon = (cfg.norm_kwargs or {}).get("eps", 1e-5)
    approximate = (cfg.act_kwargs or {}).get("approximate", "none")
    acts = {"none": "gelu", "tanh": "gelu_pytorch_tanh"}
    if (
        (quick_gelu and cfg.act_kwargs)
        or approximate not in acts
        or type(epsilon) is not float
        or len(cfg.norm_kwargs or {"eps": 0}) != 1
        or len(cfg.act_kwargs or {"approximate": 0}) != 1
        or cfg.ls_init_value is not None
        or cfg.final_ln_after_pool
        or cfg.width % cfg.heads
    ):
        raise UserError(
            f"{where}: text_cfg: no encoder has these norm_kwargs, act_kwargs, ls_init_value, "
            "final_ln_after_pool or heads"
        )
    sizes = {
        "vocab_size": cfg.vocab_size + cfg.embed_cls,
        "hidden_size": cfg.width,
        "intermediate_size": int(cfg.width * cfg.mlp_ratio),
        "num_hidden_layers": cfg.layers,
        "num_attention_heads": cfg.heads,
        "max_position_embeddings": cfg.context_length + cfg.embed_cls,
        "hidden_act": "quick_gelu" if quick_gelu else acts[approximate],
        "layer_norm_eps": epsilon,
    }
    moves = _transformer(cfg)
    if cfg.no_causal_mask:
        return _all_see_all(cfg, sizes, moves, embed_dim=embed_dim, pad_id=pad_id, where=where)
    config = {"model_type": "clip_text_model", **sizes, "pad_token_id": pad_id or 0}
    config |= {"bos_token_id": cfg.vocab_size - 2, "eos_token_id": cfg.vocab_size - 1}
    projection = _projection(cfg, moves)
    if cfg.embed_cls:
        encoder: dict[str, Any] = {"config": config, "correct_mask": cfg.correct_cls_mask}
        return Plan({"class_path": COCA, "init_args": encoder}, projection, moves)
    if cfg.pool_type not in ("argmax", "eos"):
        raise UserError(
            f"{where}: text_cfg.pool_type: {cfg.pool_type!r} of a causal transformer is not known; "
            "only argmax and eos, the token that ends a text, are"
        )
    encoder = {"config": config, "pool": "last"}
    return Plan({"class_path": HF, "init_args": encoder}, projection, moves)


def _all_see_all(
    cfg: TextCfg,
    sizes: dict[str, Any],
    moves: list[Move],
    *,
    embed_dim: int,
    pad_id: int | None,
    where: str,
) -> Plan:
    """Return SigLIP's kind: padding is seen, and the last place pooled."""
    if cfg.embed_cls or cfg.pool_type not in ("last", "argmax", "eos"):
        raise UserError(
            f"{where}: text_cfg.pool_type {cfg.pool_type!r} or embed_cls without causal attention "
            "is not known"
        )
    if pad_id is None:
        named = (cfg.hf_tokenizer_name or "").lower()
        pad_id = 1 if "siglip" in named and "siglip2" not in named else 0
    config = {"model_type": "siglip_text_model", **sizes, "projection_size": embed_dim}
    config |= {"pad_token_id": pad_id, "bos_token_id": None, "eos_token_id": pad_id}
    encoder: dict[str, Any] = {"config": config, "pool": "model", "batching": "padded"}
    head = f"{_MODEL}.head"
    zeros: dict[str, tuple[int, ...]] = {f"{head}.bias": (embed_dim,)}
    if cfg.pool_type == "last" and cfg.proj_type == "linear":
        if cfg.proj_bias:
            moves += both(f"{_STEM}text_projection", head)
            zeros = {}
        else:
            theirs = f"{_STEM}text_projection"
            moves.append(Move((theirs,), (f"{head}.weight",), "transposed"))
        projection: dict[str, Any] = {"kind": "none"}
    elif cfg.pool_type == "last":
        raise UserError(f"{where}: text_cfg.proj_type: {cfg.proj_type!r} with pool_type last")
    else:
        encoder["pool"] = "last"
        zeros[f"{head}.weight"] = (embed_dim, cfg.width)
        projection = _projection(cfg, moves)
    return Plan({"class_path": HF, "init_args": encoder}, projection, moves, zeros=zeros)


def _transformer(cfg: TextCfg) -> list[Move]:
    table = f"{_MODEL}.embeddings.token_embedding.weight"
    tokens = f"{_STEM}token_embedding.weight"
    moves = [Move((tokens,), (table,))]
    if cfg.embed_cls:
        moves = [Move((tokens, f"{_STEM}cls_emb"), (table,), "last row")]
    places = f"{_MODEL}.embeddings.position_embedding.weight"
    moves.append(Move((f"{_STEM}positional_embedding",), (places,)))
    for layer in range(cfg.layers):
        theirs, ours = f"{_STEM}transformer.resblocks.{layer}", f"{_MODEL}.encoder.layers.{layer}"
        for end in ("weight", "bias"):
            three = tuple(f"{ours}.self_attn.{part}_proj.{end}" for part in "qkv")
            moves.append(Move((f"{theirs}.attn.in_proj_{end}",), three, "thirds"))
        for their_part, our_part in _LAYERS.items():
            moves += both(f"{theirs}.{their_part}", f"{ours}.{our_part}")
    return moves + both(f"{_STEM}ln_final", f"{_MODEL}.final_layer_norm")


def _projection(cfg: TextCfg, moves: list[Move]) -> dict[str, Any]:
    name = f"{_STEM}text_projection"
    if cfg.proj_type == "none":
        return {"kind": "none"}
    if cfg.proj_bias:
        moves += both(name, "projection")
    else:
        moves.append(Move((name,), ("projection.weight",), "transposed"))
    return {"kind": "linear", "bias": cfg.proj_bias}


def _of_transformers(
    cfg: TextCfg, *, embed_dim: int, model: dict[str, Any] | None, where: str
) -> Plan:
    name = str(cfg.hf_model_name)
    model = model or MODELS.get(name.rpartition("/")[2])
    if model is None:
        raise UserError(
            f"{where}: text_cfg.hf_model_name: {name}'s sizes are not known; put its config.json "
            "beside it, as text_config.json"
        )
    pool = _POOLERS.get(cfg.hf_pooler_type or "mean_pooler")
    if pool is None:
        raise UserError(
            f"{where}: text_cfg.hf_pooler_type: {cfg.hf_pooler_type!r} is not known; "
            f"{', '.join(_POOLERS)} are"
        )
    theirs = f"{_STEM}transformer."
    ignored: tuple[str, ...] = (f"{theirs}embeddings.position_ids",)
    if pool != "model":
        ignored += (f"{theirs}pooler.",)
    width = int(model.get("hidden_size", 768))
    prefixes: tuple[tuple[str, str], ...] = ((theirs, f"{_MODEL}."),)
    kind = cfg.hf_proj_type
    projection: dict[str, Any] = {"kind": "none"}
    moves: list[Move] = []
    if kind == "linear":
        projection = {"kind": "linear", "bias": False}
        moves = [Move((f"{_STEM}proj.weight",), ("projection.weight",))]
    elif kind == "mlp":
        projection = {"kind": "mlp", "bias": False, "hidden": (width + embed_dim) // 2}
        moves = [
            Move((f"{_STEM}proj.{layer}.weight",), (f"projection.{layer}.weight",))
            for layer in (0, 2)
        ]
    elif kind == "clap_mlp":
        projection = {"kind": "mlp", "bias": True, "hidden": embed_dim, "activation": "relu"}
        moves = [m for n in (0, 2) for m in both(f"{_STEM}proj.{n}", f"projection.{n}")]
    elif kind is not None:
        raise UserError(f"{where}: text_cfg.hf_proj_type: {kind!r} is not known")
    encoder = {"class_path": HF, "init_args": {"config": model, "pool": pool}}
    return Plan(encoder, projection, moves, prefixes, ignored=ignored)


def text_cfg(
    tower: dict[str, Any], *, text: dict[str, Any], where: str
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return open_clip's settings of a text tower of ours.

    Args:
        tower: its description, with its projection's settings whole.
        text: how texts are prepared.
        where: what it is called in messages.

    Returns:
        The settings, and the config of a model of transformers, where it is one.

    Raises:
        UserError: open_clip has no such tower.
    """
    encoder, projection = tower["encoder"], tower["projection"]
    kind, given = encoder["class_path"], encoder["init_args"]
    if kind not in (HF, COCA):
        raise UserError(f"{where}: open_clip has no form for a text tower of {kind}")
    config, pool = dict(given["config"]), given.get("pool")
    model_type = config["model_type"]
    if model_type not in ("clip_text_model", "siglip_text_model"):
        cfg = _hf_cfg(config, pool, projection, where=where)
        return cfg | {"context_length": text.get("max_tokens") or 77}, config
    is_coca = kind == COCA
    is_causal = model_type == "clip_text_model"
    if projection["kind"] == "mlp" or (pool not in ("last", "model") and not is_coca):
        raise UserError(
            f"{where}: open_clip has no text transformer that pools by {pool} or projects by "
            f"{projection['kind']}"
        )
    tokenizer = text.get("tokenizer") or {}
    end = tokenizer.get("end_id", config["vocab_size"] - 1)
    cfg = {
        "context_length": config["max_position_embeddings"] - is_coca,
        "vocab_size": config["vocab_size"] - is_coca,
        "width": config["hidden_size"],
        "heads": config["num_attention_heads"],
        "layers": config["num_hidden_layers"],
        "mlp_ratio": config["intermediate_size"] / config["hidden_size"],
        "proj_bias": projection["bias"],
        "proj_type": projection["kind"],
        "norm_kwargs": {"eps": config.get("layer_norm_eps", 1e-5)},
    }
    if config["hidden_act"] == "gelu_pytorch_tanh":
        cfg["act_kwargs"] = {"approximate": "tanh"}
    elif config["hidden_act"] not in ("gelu", "quick_gelu"):
        raise UserError(f"{where}: open_clip has no text transformer with {config['hidden_act']}")
    if is_coca:
        cfg |= {"embed_cls": True}
        if given.get("correct_mask"):
            raise UserError(f"{where}: open_clip 3.3.0 has no config for CoCa's correct mask")
    elif not is_causal:
        cfg |= {"no_causal_mask": True}
    if pool == "model":
        cfg |= {"pool_type": "last", "proj_bias": True, "proj_type": "linear"}
    elif not is_coca and end != cfg["vocab_size"] - 1:
        cfg |= {"pool_type": "eos", "eos_id": end}
    return cfg, None


def _hf_cfg(
    config: dict[str, Any], pool: Any, projection: dict[str, Any], *, where: str
) -> dict[str, Any]:
    poolers = {ours: theirs for theirs, ours in _POOLERS.items()}
    if pool not in poolers or projection["bias"]:
        raise UserError(
            f"{where}: open_clip has no text tower of transformers that pools by {pool}, or whose "
            "projection has a bias"
        )
    name = next((name for name, known in MODELS.items() if _is_like(config, known)), None)
    if name is None:
        raise UserError(
            f"{where}: open_clip names a text model of transformers, and this "
            f"'{config['model_type']}' is none of {', '.join(MODELS)}"
        )
    return {
        "hf_model_name": name,
        "hf_tokenizer_name": name,
        "hf_proj_type": None if projection["kind"] == "none" else projection["kind"],
        "hf_pooler_type": poolers[pool],
    }


def _is_like(config: dict[str, Any], known: dict[str, Any]) -> bool:
    return all(config.get(name) == value for name, value in known.items())
