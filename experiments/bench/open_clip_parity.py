"""Fifty steps of CLIP's training: mmlight against open_clip's own code, loss by loss.

Purpose
    Whether ``experiments/papers/clip/parity.yaml`` trains as open_clip does: the same images,
    tokens, towers, loss, optimiser, weight decay, schedule and clamp.

Command
    python experiments/bench/open_clip_parity.py           # ViT-B/32, about half an hour
    python experiments/bench/open_clip_parity.py --quick   # narrower and flatter; a minute

    Needs open_clip_torch 3.3.0 in a folder of its own (see clip_step.py), for its model, loss,
    schedule, tokenizer and vocabulary, and ``data/scenes`` (see experiments/data/scenes.yaml).

Hardware
    Any CPU, one thread.

What is measured
    mmlight     the experiment through Lightning's trainer, from shards.
    open_clip   its CLIP, ClipLoss and cosine_lr, AdamW as its training makes it, on the batches
                that mmlight's steps had: pixels, and captions through its own tokenizer.

    Each once with the weight decay of open_clip 3.3.0 (``no_decay: vectors``) and once with that of
    its main branch (``vectors_and_listed``), from open_clip's initial weights, which
    mmlight reads as it reads any published model of open_clip. Both losses of each
    step are compared, and at the end the position embeddings, which one rule decays; they are also
    compared across the rules, which shows what a wrong rule would have made of them.
"""

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clip_step import MEAN, STD, bring_over, make_peer
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mmlight.experiment.build import build

YAML = Path(__file__).resolve().parents[1] / "papers" / "clip" / "parity.yaml"
RULES = {"3.3.0": "vectors", "main": "vectors_and_listed"}
# As in the YAML.
LR, WEIGHT_DECAY, BETAS, EPS, WARMUP = 5e-4, 0.2, (0.9, 0.98), 1e-6, 10


@dataclass
class Step:
    """What a step of mmlight had, and its loss."""

    pixels_BCHW: Tensor
    token_ids_NL: Tensor
    captions: list[str]
    loss: float


@dataclass
class Recorder(Callback):
    """Begins with open_clip's weights, and keeps each step."""

    peer: Any
    args: argparse.Namespace
    steps: list[Step] = field(default_factory=list)

    def on_fit_start(self, trainer: Any, task: Any) -> None:
        bring_over(self.peer, task, self.args)

    def on_train_batch_end(
        self, trainer: Any, task: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.steps.append(
            Step(
                batch.image.pixels_BCHW,
                batch.text.token_ids_NL,
                list(batch.captions),
                float(outputs["loss"]),
            )
        )


def narrow(args: argparse.Namespace) -> list[str]:
    """Return the arguments that make the experiment's towers as wide and deep as asked."""
    towers = "--model.init_args.towers"
    image, text = f"{towers}.image.encoder.init_args", f"{towers}.text.encoder.init_args.config"
    kwargs = {"embed_dim": args.width, "depth": args.layers, "num_heads": args.width // 64}
    return [
        f"{image}.kwargs={json.dumps(kwargs)}",
        f"{text}.hidden_size={args.dim}",
        f"{text}.intermediate_size={4 * args.dim}",
        f"{text}.num_hidden_layers={args.layers}",
        f"{text}.num_attention_heads={args.dim // 64}",
        f"--model.init_args.embed_dim={args.dim}",
    ]


def train_ours(
    args: argparse.Namespace, rule: str, peer: Any, root: Path
) -> tuple[Any, list[Step]]:
    """Train by the experiment; return the task and its steps."""
    experiment = build(
        "fit",
        [
            *("-c", str(YAML), f"--run.root={root}", f"--trainer.max_steps={args.steps}"),
            f"--data.init_args.train.shards={args.data}",
            f"--data.init_args.global_batch_size={args.batch}",
            f"--model.init_args.optimizer.no_decay={RULES[rule]}",
            *narrow(args),
        ],
    )
    recorder = Recorder(peer, args)
    experiment.trainer.callbacks.append(recorder)
    experiment.run()
    return experiment.task, recorder.steps


def excluded(rule: str) -> Callable[[str, Tensor], bool]:
    """Return which of open_clip's parameters its training does not decay."""
    if rule == "3.3.0":
        parts = ("bn", "ln", "bias", "logit_scale")
        return lambda name, p: p.ndim < 2 or any(part in name for part in parts)
    listed = ("positional_embedding", "class_embedding")
    return lambda name, p: p.ndim <= 1 or name.rpartition(".")[-1] in listed


def train_peer(peer: Any, rule: str, steps: list[Step]) -> tuple[list[float], int]:
    """Train open_clip on the same batches; return its losses, and captions cut otherwise."""
    from open_clip.loss import ClipLoss
    from open_clip.tokenizer import SimpleTokenizer
    from open_clip_train.scheduler import cosine_lr

    named = [(n, p) for n, p in peer.named_parameters() if p.requires_grad]
    leave = excluded(rule)
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for n, p in named if leave(n, p)], "weight_decay": 0.0},
            {"params": [p for n, p in named if not leave(n, p)], "weight_decay": WEIGHT_DECAY},
        ],
        lr=LR,
        betas=BETAS,
        eps=EPS,
    )
    set_lr = cosine_lr(optimizer, LR, WARMUP, len(steps))
    tokenizer, loss = SimpleTokenizer(), ClipLoss()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    losses, differing = [], 0
    for number, step in enumerate(steps):
        set_lr(number)
        images = (step.pixels_BCHW.float() / 255 - mean) / std
        ids_NL = tokenizer(step.captions)
        width = step.token_ids_NL.shape[1]
        same_NL = ids_NL[:, :width] == step.token_ids_NL
        differing += int((~same_NL.all(1) | ids_NL[:, width:].any(1)).sum())
        optimizer.zero_grad()
        value = loss(*peer(images, ids_NL))
        value.backward()
        optimizer.step()
        with torch.no_grad():
            peer.logit_scale.clamp_(0, math.log(100))
        losses.append(float(value.detach()))
    return losses, differing


def positions(task: Any, peer: Any) -> tuple[Tensor, Tensor]:
    """Return the text towers' position embeddings of both sides."""
    ours = dict(task.named_parameters())
    name = next(n for n in ours if n.endswith("position_embedding.weight"))
    return ours[name].detach().clone(), peer.positional_embedding.detach().clone()


def main() -> None:
    parser = argparse.ArgumentParser(description="Fifty steps of CLIP: mmlight against open_clip.")
    parser.add_argument("--quick", action="store_true", help="narrower and flatter towers")
    parser.add_argument(
        "--open-clip", default=os.environ.get("OPEN_CLIP"), help="the folder it is installed in"
    )
    parser.add_argument("--data", default="data/scenes/train", help="shards with jpg and captions")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES))
    args = parser.parse_args()
    if args.open_clip is None:
        parser.error("--open-clip FOLDER is needed (see the top of this file)")
    sys.path.append(args.open_clip)
    args.width, args.dim, args.layers = (192, 128, 2) if args.quick else (768, 512, 12)
    torch.set_num_threads(1)
    table = Table("weight decay of", "first loss", "last loss", "largest difference", "positions")
    figures: dict[str, Any] = {"steps": args.steps, "batch": args.batch}
    ended: dict[str, tuple[Tensor, Tensor]] = {}
    for rule in args.rules:
        with tempfile.TemporaryDirectory() as root:
            peer = make_peer(args)
            task, steps = train_ours(args, rule, peer, Path(root))
        losses, differing = train_peer(peer, rule, steps)
        apart = np.abs(np.subtract(losses, [step.loss for step in steps]))
        ended[rule] = positions(task, peer)
        wide = float((ended[rule][0] - ended[rule][1]).abs().max())
        table.add_row(
            rule, f"{losses[0]:.5f}", f"{losses[-1]:.5f}", f"{apart.max():.1e}", f"{wide:.1e}"
        )
        figures[f"largest_loss_difference_{rule}"] = float(apart.max())
        figures[f"captions_cut_otherwise_{rule}"] = differing
        figures[f"positions_difference_{rule}"] = wide
        figures |= {f"first_loss_{rule}": losses[0], f"last_loss_{rule}": losses[-1]}
    if len(ended) == len(RULES):
        (first, _), (_, second) = ended.values()
        figures["positions_difference_across_rules"] = float((first - second).abs().max())
    Console().print(table)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
