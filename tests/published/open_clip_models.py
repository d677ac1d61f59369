"""Tiny models of open_clip's kinds, without open_clip."""

import json
from copy import deepcopy

import torch

from mmlight.published.open_clip.read import describe
from mmlight.published.open_clip.settings import model_cfg
from mmlight.published.open_clip.text import plan_text
from mmlight.published.open_clip.vision import plan_vision
from mmlight.published.open_clip.write import write_open_clip
from mmlight.saved.checkpoint import Saved
from mmlight.saved.rebuild import rebuild
from mmlight.tasks.task import Task

TEXT = {"context_length": 12, "vocab_size": 40, "width": 16, "heads": 2, "layers": 2}
VIT = {"image_size": 32, "patch_size": 8, "width": 16, "head_width": 8, "layers": 2}
SIGLIP_TEXT = {
    **TEXT,
    "no_causal_mask": True,
    "proj_bias": True,
    "pool_type": "last",
    "norm_kwargs": {"eps": 1e-6},
    "act_kwargs": {"approximate": "tanh"},
}
TINY_ROBERTA = {
    "model_type": "roberta",
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
# By kind, as open_clip's own configs have them, but for their sizes.
CONFIGS = {
    "ViT": {"vision_cfg": VIT, "text_cfg": TEXT},
    "ViT-quickgelu": {"quick_gelu": True, "vision_cfg": VIT, "text_cfg": TEXT},
    "ViT-scaled-avg": {
        "vision_cfg": {
            **VIT,
            "ls_init_value": 0.1,
            "no_ln_pre": True,
            "pool_type": "avg",
            "final_ln_after_pool": True,
        },
        "text_cfg": {**TEXT, "proj_bias": True},
        "custom_text": True,
    },
    "RN50": {
        "vision_cfg": {"image_size": 64, "layers": [3, 4, 6, 3], "width": 64, "patch_size": None},
        "text_cfg": TEXT,
    },
    "SigLIP": {
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 160,
            "timm_model_name": "test_vit",
            "timm_pool": "map",
            "timm_proj": "linear",
        },
        "text_cfg": SIGLIP_TEXT,
    },
    "convnext": {
        "vision_cfg": {
            "timm_model_name": "test_convnext",
            "timm_pool": "",
            "timm_proj": "mlp",
            "timm_drop_path": 0.1,
            "image_size": 160,
        },
        "text_cfg": TEXT,
    },
    "coca": {
        "vision_cfg": {
            **VIT,
            "attentional_pool": True,
            "attn_pooler_heads": 2,
            "attn_pooler_queries": 3,
        },
        "text_cfg": {**TEXT, "embed_cls": True},
        "custom_text": True,
    },
    "roberta": {
        "quick_gelu": True,
        "vision_cfg": VIT,
        "text_cfg": {
            "hf_model_name": "roberta-tiny",
            "hf_pooler_type": "mean_pooler",
            "context_length": 12,
        },
    },
}
PREPROCESS = {
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.3, 0.25],
    "interpolation": "bilinear",
    "resize_mode": "squash",
}


def config(kind, **changes):
    return deepcopy({"embed_dim": 8, **CONFIGS[kind]}) | changes


def made(kind, folder):
    """Write a model of a kind with random weights into a folder; return the task it is of."""
    given = config(kind)
    cfg = model_cfg(given, where="test")
    shared = {"embed_dim": cfg.embed_dim, "quick_gelu": cfg.quick_gelu, "where": "test"}
    inputs = {"mean": PREPROCESS["mean"], "std": PREPROCESS["std"]}
    plans = {
        "image": plan_vision(cfg.vision, inputs=inputs, **shared),
        "text": plan_text(cfg.text, pad_id=None, model=None, **shared),
    }
    torch.manual_seed(0)
    task = rebuild(describe(cfg, plans), base=Task)
    task.configure_model()
    no_part = [zero for plan in plans.values() for zero in plan.zeros]
    with torch.no_grad():
        for name, tensor in task.state_dict().items():
            if name.partition(".")[2].partition(".")[2] in no_part:
                tensor.zero_()
            elif tensor.is_floating_point():
                noise = 0.02 * torch.randn_like(tensor)
                tensor += noise.abs() if name.endswith("running_var") else noise
    folder.mkdir()
    image = {"size": cfg.vision.image_size, "eval_crop": "squash", "interpolation": "bilinear"}
    saved = Saved(
        task.rebuild_description(),
        {"image": image, "text": {"max_tokens": 12}},
        dict(task.state_dict()),
    )
    write_open_clip(folder, saved)
    return task.eval()


def changed(folder, **changes):
    """Change a folder's model_cfg; a mapping changes the part of that name."""
    path = folder / "open_clip_config.json"
    found = json.loads(path.read_text())
    for name, value in changes.items():
        part = found["model_cfg"].get(name)
        both = isinstance(part, dict) and isinstance(value, dict)
        merged = {**part, **value} if both else value
        found["model_cfg"][name] = merged
    path.write_text(json.dumps(found))
