"""A whole training step of CLIP: mmlight against open_clip, from equal weights on equal batches.

Purpose
    What a step costs, from images and captions in memory to updated weights, in ViT-B/32's
    proportions; and whether both learn the same.

Command
    python experiments/bench/clip_step.py            # about twenty minutes
    python experiments/bench/clip_step.py --quick    # smaller and fewer steps; about a minute

    Needs open_clip_torch 3.3.0. It pins webdataset below 1.0, mmlight needs 1.0: install it without
    its dependencies into a folder of its own (`pip install --no-deps --target FOLDER`; `make slow`
    does, into .venv/peers), and name the folder in `--open-clip FOLDER`.

Hardware
    Any CPU, one thread. Where other programs use the machine, compare ratios.

What is measured
    open_clip   its CLIP, its ClipLoss and the AdamW of its training (its groups and settings).
    mmlight     Contrastive with TimmImage and HfText, with the defaults: packed captions, tiled
                loss, fused AdamW.

    float32. Caption lengths are log-normal: mean 18, 95 % below 38, at most 77. Both sides get
    uint8 images in memory, normalised in the step, and padded token ids. CPU time of forward, loss,
    backward, optimiser step and clamping, in turn; the first step is left out of the times. The
    losses of all steps are compared.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor

from mmlight.batch import Batch, Images, Text
from mmlight.encoders.hf_text import HfText
from mmlight.encoders.timm_image import TimmImage
from mmlight.optim.adamw import AdamWSettings
from mmlight.published.open_clip.files import CONFIG, WEIGHTS
from mmlight.published.read import read_model
from mmlight.tasks.contrastive import Contrastive
from mmlight.tasks.tower import Towers, TowerSettings

LR, WEIGHT_DECAY, BETAS, EPS = 5e-4, 0.2, (0.9, 0.98), 1e-6
VOCABULARY, START, END = 49408, 49406, 49407
CONTEXT = 77
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def make_peer(args: argparse.Namespace) -> Any:
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    torch.manual_seed(0)
    return CLIP(
        embed_dim=args.dim,
        vision_cfg=CLIPVisionCfg(
            layers=args.layers, width=args.width, head_width=64, patch_size=32, image_size=224
        ),
        text_cfg=CLIPTextCfg(
            context_length=CONTEXT,
            vocab_size=VOCABULARY,
            width=args.dim,
            heads=args.dim // 64,
            layers=args.layers,
        ),
    ).train()


def make_ours(args: argparse.Namespace, peer: Any | None) -> Contrastive:
    """Build mmlight's side, with the weights of open_clip's where there is one."""
    image = partial(
        TimmImage,
        "vit_base_patch32_clip_224",
        mean=MEAN,
        std=STD,
        kwargs={
            "embed_dim": args.width,
            "depth": args.layers,
            "num_heads": args.width // 64,
        },
    )
    text = {
        "model_type": "clip_text_model",
        "vocab_size": VOCABULARY,
        "hidden_size": args.dim,
        "intermediate_size": 4 * args.dim,
        "num_hidden_layers": args.layers,
        "num_attention_heads": args.dim // 64,
        "max_position_embeddings": CONTEXT,
        "hidden_act": "gelu",
        "bos_token_id": START,
        "eos_token_id": END,
    }
    task = Contrastive(
        towers=Towers(
            image=TowerSettings(encoder=image),
            text=TowerSettings(encoder=partial(HfText, config=text, pool="last")),
        ),
        embed_dim=args.dim,
    )
    task.configure_model()
    if peer is not None:
        bring_over(peer, task, args)
    return task.train()


def bring_over(peer: Any, task: Contrastive, args: argparse.Namespace) -> None:
    """Give the task open_clip's weights, as mmlight reads them from a folder of open_clip."""
    cfg = {
        "embed_dim": args.dim,
        "vision_cfg": {
            "image_size": 224,
            "layers": args.layers,
            "width": args.width,
            "head_width": 64,
            "patch_size": 32,
        },
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": VOCABULARY,
            "width": args.dim,
            "heads": args.dim // 64,
            "layers": args.layers,
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        config = {"model_cfg": cfg, "preprocess_cfg": {"mean": MEAN, "std": STD}}
        (Path(folder) / CONFIG).write_text(json.dumps(config))
        save_file(peer.state_dict(), Path(folder) / WEIGHTS)
        _, saved = read_model(folder, key="open_clip")
    task.load_state_dict(saved.tensors)


def make_batch(size: int, step: int) -> Batch:
    draws = np.random.default_rng(step)
    # Mean 18 and 95th percentile 38, as image captions have them.
    length_N = np.clip(np.rint(draws.lognormal(2.77, 0.48, size)), 3, CONTEXT).astype(np.int64)
    ids_NL = draws.integers(1, START, (size, CONTEXT))
    place_L = np.arange(CONTEXT)
    ids_NL[place_L >= length_N[:, None]] = 0
    ids_NL[:, 0] = START
    ids_NL[np.arange(size), length_N - 1] = END
    pixels = torch.from_numpy(draws.integers(0, 256, (size, 3, 224, 224), dtype=np.uint8))
    mask_NL = torch.from_numpy(place_L < length_N[:, None])
    here, rows = torch.ones(size, dtype=torch.bool), torch.arange(size)
    text = Text(torch.from_numpy(ids_NL), mask_NL, here, rows, rows)
    return Batch(rows, ["-"] * size, 0, step, here, image=Images(pixels, here), text=text)


def peer_step(peer: Any) -> Callable[[Batch], float]:
    from open_clip.loss import ClipLoss

    def excluded(name: str, p: Tensor) -> bool:  # as open_clip's training has it
        return p.ndim < 2 or any(part in name for part in ("bn", "ln", "bias", "logit_scale"))

    named = list(peer.named_parameters())
    groups = [
        {"params": [p for n, p in named if excluded(n, p)], "weight_decay": 0.0},
        {"params": [p for n, p in named if not excluded(n, p)], "weight_decay": WEIGHT_DECAY},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, eps=EPS)
    loss = ClipLoss()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))

    def step(batch: Batch) -> float:
        assert batch.image is not None and batch.text is not None
        images = (batch.image.pixels_BCHW.float() / 255 - mean) / std
        optimizer.zero_grad()
        value = loss(*peer(images, batch.text.token_ids_NL))
        value.backward()
        optimizer.step()
        with torch.no_grad():
            peer.logit_scale.clamp_(0, np.log(100))
        return float(value.detach())

    return step


def our_step(task: Contrastive) -> Callable[[Batch], float]:
    # open_clip 3.3.0 decays the position embeddings, mmlight does not: here both do. Its class
    # token is a vector, ours has two more dimensions.
    named = list(task.named_parameters())
    vectors = {n for n, p in named if p.ndim < 2 or n.endswith("cls_token")} | {
        "objective.log_scale"
    }
    plain = [p for n, p in named if n in vectors]
    others = [p for n, p in named if n not in vectors]
    optimizer = AdamWSettings(lr=LR, betas=BETAS, eps=EPS, weight_decay=WEIGHT_DECAY).build(
        [{"params": plain, "weight_decay": 0.0}, {"params": others, "weight_decay": WEIGHT_DECAY}]
    )

    def step(batch: Batch) -> float:
        optimizer.zero_grad()
        value = task.loss(batch).value
        value.backward()
        optimizer.step()
        task.after_step()
        return float(value.detach())

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description="A step of CLIP: mmlight against open_clip.")
    parser.add_argument("--quick", action="store_true", help="smaller, fewer steps")
    parser.add_argument(
        "--open-clip", default=os.environ.get("OPEN_CLIP"), help="the folder it is installed in"
    )
    parser.add_argument("--batch", type=int, default=None)
    args = parser.parse_args()
    if args.open_clip:
        sys.path.append(args.open_clip)
    args.width, args.dim, args.layers = (192, 128, 2) if args.quick else (384, 256, 6)
    size = args.batch or (16 if args.quick else 128)
    num_steps = 4 if args.quick else 20
    torch.set_num_threads(1)
    peer = make_peer(args)
    task = make_ours(args, peer)
    steps = {"open_clip": peer_step(peer), "mmlight": our_step(task)}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    losses: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(num_steps):
        batch = make_batch(size, number)
        for name in sorted(steps, reverse=bool(number % 2)):
            started = time.process_time()
            losses[name].append(steps[name](batch))
            seconds[name].append(time.process_time() - started)
    ratios = [p / o for p, o in zip(seconds["open_clip"], seconds["mmlight"], strict=True)][1:]
    apart = [abs(p - o) for p, o in zip(losses["open_clip"], losses["mmlight"], strict=True)]
    table = Table("", "CPU-s a step", "first loss", "last loss")
    for name in steps:
        table.add_row(
            name,
            f"{statistics.median(seconds[name][1:]):.2f}",
            f"{losses[name][0]:.5f}",
            f"{losses[name][-1]:.5f}",
        )
    console = Console()
    console.print(table)
    ratio = statistics.median(ratios)
    console.print(
        f"{ratio:.2f} x ({min(ratios):.2f} to {max(ratios):.2f}); losses {max(apart):.1e}"
    )
    figures = {"batch": size, "steps": num_steps, "ratio": round(ratio, 3)}
    print(json.dumps(figures | {"largest_loss_difference": max(apart)}))


if __name__ == "__main__":
    main()
