"""Image towers of open_clip as encoders of ours."""

import re
from typing import Any

from mmlight.errors import UserError
from mmlight.published.open_clip.settings import VisionCfg
from mmlight.published.open_clip.tensors import Move, Plan, both

TIMM = "mmlight.encoders.timm_image.TimmImage"
COCA = "mmlight.encoders.coca_image.CocaImage"
# Networks of timm, with their norms' epsilon, that stand for open_clip's own by further arguments.
VIT = {1e-5: "vit_base_patch32_clip_224", 1e-6: "vit_base_patch32_224"}
# By their numbers of layers and first width.
RESNETS = {
    ((3, 4, 6, 3), 64): "resnet50_clip",
    ((3, 4, 23, 3), 64): "resnet101_clip",
    ((4, 6, 10, 6), 80): "resnet50x4_clip",
    ((6, 8, 18, 8), 96): "resnet50x16_clip",
    ((3, 15, 36, 10), 128): "resnet50x64_clip",
}
_STEM = "visual."


def plan_vision(
    cfg: VisionCfg, *, embed_dim: int, quick_gelu: bool, inputs: dict[str, Any], where: str
) -> Plan:
    """Return how an image tower becomes one of ours.

    Args:
        cfg: its settings.
        embed_dim: width of the joint space.
        quick_gelu: whether transformers have OpenAI's fast GELU.
        inputs: mean and standard deviation of pixels, by channel.
        where: the file, for messages.

    Raises:
        UserError: a network that mmlight has no encoder for.
    """
    if cfg.timm_model_name is not None:
        return _timm(cfg, embed_dim=embed_dim, inputs=inputs, where=where)
    if isinstance(cfg.layers, list | tuple):
        return _resnet(cfg, inputs=inputs, where=where)
    return _vit(cfg, embed_dim=embed_dim, quick_gelu=quick_gelu, inputs=inputs, where=where)


def _encoder(name: str, **settings: Any) -> dict[str, Any]:
    given = {key: value for key, value in settings.items() if value is not None}
    return {"class_path": TIMM, "init_args": {"name": name, **given}}


def _timm(cfg: VisionCfg, *, embed_dim: int, inputs: dict[str, Any], where: str) -> Plan:
    name, kind = str(cfg.timm_model_name), cfg.timm_proj
    if cfg.timm_pool in ("abs_attn", "rot_attn"):
        raise UserError(f"{where}: vision_cfg.timm_pool: mmlight has no {cfg.timm_pool} pooling")
    moves: list[Move] = []
    prefixes: tuple[tuple[str, str], ...] = ((f"{_STEM}trunk.", "encoder.model."),)
    projection: dict[str, Any] = {"kind": "none"}
    if kind == "linear":
        projection = {"kind": "linear", "bias": cfg.timm_proj_bias}
        prefixes += ((f"{_STEM}head.proj.", "projection."),)
    elif kind == "mlp":
        projection = {"kind": "mlp", "bias": True, "hidden": 2 * embed_dim}
        moves = both(f"{_STEM}head.mlp.fc1", "projection.0")
        second = both(f"{_STEM}head.mlp.fc2", "projection.2")
        moves += second if cfg.timm_proj_bias else second[:1]
    elif kind != "none":
        raise UserError(
            f"{where}: vision_cfg.timm_proj: {kind!r}, timm's own classifier as a projection, is "
            "not known; only linear, mlp and none are"
        )
    no_bias = kind == "mlp" and not cfg.timm_proj_bias
    encoder = _encoder(
        name,
        img_size=cfg.image_size,
        pool=cfg.timm_pool or None,
        drop_path_rate=cfg.timm_drop_path,
        patch_drop_rate=cfg.patch_dropout or None,
        **inputs,
    )
    zeros = {"projection.2.bias": (embed_dim,)} if no_bias else {}
    return Plan(encoder, projection, moves, prefixes, zeros=zeros)


def _resnet(cfg: VisionCfg, *, inputs: dict[str, Any], where: str) -> Plan:
    layers = tuple(cfg.layers)
    name = RESNETS.get((layers, cfg.width))
    if name is None:
        raise UserError(
            f"{where}: vision_cfg: no ResNet of {list(layers)} layers and width {cfg.width} is "
            "known; RN50, RN101, RN50x4, RN50x16 and RN50x64 are"
        )
    model = "encoder.model"
    moves: list[Move] = []

    def convolution(theirs: str, norm: str, ours: str) -> None:
        moves.append(Move((f"{_STEM}{theirs}.weight",), (f"{model}.{ours}.conv.weight",)))
        for end in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            moves.append(Move((f"{_STEM}{norm}.{end}",), (f"{model}.{ours}.bn.{end}",)))

    for number in (1, 2, 3):
        convolution(f"conv{number}", f"bn{number}", f"stem.conv{number}")
    for stage, depth in enumerate(layers):
        for block in range(depth):
            theirs, ours = f"layer{stage + 1}.{block}", f"stages.{stage}.{block}"
            for number, part in enumerate(("conv1_1x1", "conv2_kxk", "conv3_1x1"), start=1):
                convolution(f"{theirs}.conv{number}", f"{theirs}.bn{number}", f"{ours}.{part}")
            if block == 0:
                down = f"{theirs}.downsample"
                convolution(f"{down}.0", f"{down}.1", f"{ours}.shortcut.conv")
    pool = f"{_STEM}attnpool"
    moves.append(Move((f"{pool}.positional_embedding",), (f"{model}.head.pos_embed",)))
    for part in "qkv":
        moves += both(f"{pool}.{part}_proj", f"{model}.head.{part}")
    moves += both(f"{pool}.c_proj", "projection")
    encoder = _encoder(name, img_size=cfg.image_size, **inputs)
    return Plan(encoder, {"kind": "linear", "bias": True}, moves)


def _vit(
    cfg: VisionCfg, *, embed_dim: int, quick_gelu: bool, inputs: dict[str, Any], where: str
) -> Plan:
    width, depth, patch = cfg.width, cfg.layers, cfg.patch_size
    epsilon = (cfg.norm_kwargs or {}).get("eps", 1e-5)
    if type(depth) is not int or type(patch) is not int or width % cfg.head_width:
        raise UserError(
            f"{where}: vision_cfg: {depth!r} layers, patches of {patch!r} pixels and width {width} "
            f"in heads of {cfg.head_width} make no transformer"
        )
    if cfg.act_kwargs or epsilon not in VIT or len(cfg.norm_kwargs or {"eps": 0}) != 1:
        raise UserError(f"{where}: vision_cfg.act_kwargs or norm_kwargs: no encoder has these")
    if cfg.pool_type not in ("tok", "avg"):
        raise UserError(f"{where}: vision_cfg.pool_type: {cfg.pool_type!r} is not known")
    if isinstance(cfg.attentional_pool, str):
        raise UserError(
            f"{where}: vision_cfg.attentional_pool: {cfg.attentional_pool!r} is not known; only "
            "true, as coca_ViT-B-32 has it, is"
        )
    kwargs: dict[str, Any] = {
        "patch_size": patch,
        "embed_dim": width,
        "depth": depth,
        "num_heads": width // cfg.head_width,
        "mlp_ratio": float(cfg.mlp_ratio),
        "pre_norm": not cfg.no_ln_pre,
    }
    if quick_gelu:
        kwargs["act_layer"] = "quick_gelu"
    if cfg.ls_init_value is not None:
        kwargs["init_values"] = float(cfg.ls_init_value)
    pool = "avg" if cfg.pool_type == "avg" else "token"
    norm = "norm"
    if cfg.attentional_pool:
        kwargs["final_norm"] = False
    elif cfg.pool_type == "avg":
        kwargs["fc_norm"] = cfg.final_ln_after_pool
        norm = "fc_norm" if cfg.final_ln_after_pool else "norm"
    encoder = _encoder(
        VIT[epsilon],
        img_size=cfg.image_size,
        pool=pool,
        patch_drop_rate=cfg.patch_dropout or None,
        kwargs=kwargs,
        **inputs,
    )
    model = "encoder.model"
    moves = [
        Move((f"{_STEM}conv1.weight",), (f"{model}.patch_embed.proj.weight",)),
        Move((f"{_STEM}class_embedding",), (f"{model}.cls_token",), "two axes"),
        Move((f"{_STEM}positional_embedding",), (f"{model}.pos_embed",), "one axis"),
    ]
    zeros: dict[str, tuple[int, ...]] = {}
    if cfg.no_ln_pre:  # timm's has a bias there
        zeros[f"{model}.patch_embed.proj.bias"] = (width,)
    else:
        moves += both(f"{_STEM}ln_pre", f"{model}.norm_pre")
    parts = {
        "ln_1": "norm1",
        "attn.out_proj": "attn.proj",
        "ln_2": "norm2",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }
    for block in range(depth):
        theirs, ours = f"{_STEM}transformer.resblocks.{block}", f"{model}.blocks.{block}"
        for end in ("weight", "bias"):
            moves.append(Move((f"{theirs}.attn.in_proj_{end}",), (f"{ours}.attn.qkv.{end}",)))
        for their_part, our_part in parts.items():
            moves += both(f"{theirs}.{their_part}", f"{ours}.{our_part}")
        if cfg.ls_init_value is not None:
            for number in (1, 2):
                gamma = f"ls_{number}.gamma", f"ls{number}.gamma"
                moves.append(Move((f"{theirs}.{gamma[0]}",), (f"{ours}.{gamma[1]}",)))
    moves.append(Move((f"{_STEM}proj",), ("projection.weight",), "transposed"))
    projection = {"kind": "linear", "bias": False}
    if not cfg.attentional_pool:
        moves += both(f"{_STEM}ln_post", f"{model}.{norm}")
        return Plan(encoder, projection, moves, zeros=zeros)
    encoder["class_path"] = COCA
    encoder["init_args"] |= {
        "pool_dim": embed_dim,
        "pool_heads": cfg.attn_pooler_heads,
        "pool_queries": cfg.attn_pooler_queries,
    }
    moves += both(f"{_STEM}ln_post", "encoder.pool.norm")
    return Plan(
        encoder,
        projection,
        moves,
        prefixes=((f"{_STEM}attn_pool.", "encoder.pool.attention."),),
        zeros=zeros,
    )


def vision_cfg(tower: dict[str, Any], *, where: str) -> dict[str, Any]:
    """Return open_clip's settings of an image tower of ours.

    Args:
        tower: its description, with its projection's settings whole.
        where: what it is called in messages.

    Raises:
        UserError: open_clip has no such tower.
    """
    encoder, projection = tower["encoder"], tower["projection"]
    kind, given = encoder["class_path"], encoder["init_args"]
    kwargs = given.get("kwargs") or {}
    if kind not in (TIMM, COCA):
        raise UserError(f"{where}: open_clip has no form for an image tower of {kind}")
    if given.get("in_chans", 3) != 3 or given.get("stem", "model") != "model":
        raise UserError(f"{where}: open_clip has no image tower of other channels or a small stem")
    size = given.get("img_size")
    name = str(given["name"])
    shared = {"patch_dropout": given.get("patch_drop_rate") or 0.0}
    if "patch_size" in kwargs and "embed_dim" in kwargs and name in VIT.values():
        return shared | _vit_cfg(given, kwargs, is_coca=kind == COCA)
    if kwargs:
        raise UserError(
            f"{where}: open_clip has no arguments for timm's {name}, and this tower has "
            f"{', '.join(kwargs)}"
        )
    sizes = re.findall(r"_(\d{3})(?=[._]|$)", name)
    if sizes and size is not None and int(sizes[-1]) != size:
        raise UserError(
            f"{where}: open_clip makes {name} for {sizes[-1]} pixels, and this tower is for {size}"
        )
    size = size or (int(sizes[-1]) if sizes else 224)
    for (layers, width), resnet in RESNETS.items():
        if name == resnet:
            return {"image_size": size, "layers": list(layers), "width": width, "patch_size": None}
    return shared | {
        "timm_model_name": name,
        "timm_model_pretrained": False,
        "timm_pool": given.get("pool") or "",
        "timm_proj": projection["kind"],
        "timm_proj_bias": projection["bias"],
        "timm_drop_path": given.get("drop_path_rate"),
        "image_size": size,
    }


def _vit_cfg(given: dict[str, Any], kwargs: dict[str, Any], *, is_coca: bool) -> dict[str, Any]:
    pool = given.get("pool")
    cfg: dict[str, Any] = {
        "image_size": given.get("img_size"),
        "layers": kwargs.get("depth"),
        "width": kwargs["embed_dim"],
        "head_width": kwargs["embed_dim"] // int(kwargs.get("num_heads", 12)),
        "patch_size": kwargs["patch_size"],
        "mlp_ratio": kwargs.get("mlp_ratio", 4.0),
        "ls_init_value": kwargs.get("init_values"),
        "no_ln_pre": not kwargs.get("pre_norm", given["name"] == VIT[1e-5]),
        "pool_type": "avg" if pool == "avg" else "tok",
        "final_ln_after_pool": pool == "avg" and bool(kwargs.get("fc_norm")),
    }
    if given["name"] == VIT[1e-6]:
        cfg["norm_kwargs"] = {"eps": 1e-6}
    if is_coca:
        cfg |= {
            "attentional_pool": True,
            "attn_pooler_queries": given["pool_queries"],
            "attn_pooler_heads": given["pool_heads"],
        }
    return cfg
