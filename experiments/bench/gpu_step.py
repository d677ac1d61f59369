"""A training step of CLIP on one GPU: what each means against time and memory brings.

Purpose
    Samples per second, share of the matrix rate and peak memory of ViT-B/32, B/16 and L/14 in
    bfloat16, with one means after the other.

Command
    python experiments/bench/gpu_step.py                     # one GPU, about six minutes
    python experiments/bench/gpu_step.py --quick             # tiny; also on a CPU, not compiled

Hardware
    One NVIDIA GPU with 80 GB or more; smaller with `--batch`.

What is measured
    Forward, loss, backward, clamping and a fused AdamW step on batches in the device's memory, by
    the wall clock between two synchronisations over `--steps` steps after a warm-up. Captions as
    in clip_step.py. Each row adds to the row above:

    padded        captions padded to 77 tokens, no compilation
    packed        captions packed into rows
    compiled      torch.compile of every block
    half          half of the patches dropped (arXiv 2212.00794)
    fsdp          FSDP2 over one process, in place of `half`

    Share: training FLOPs (torch's counter, padded, so that packing shows as gain) over time and the
    rate of a large bfloat16 matrix product, measured here.
"""

import argparse
import contextlib
import json
import os
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from clip_step import CONTEXT, END, START, VOCABULARY, make_batch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from mmlight.batch import Batch
from mmlight.encoders.hf_text import HfText
from mmlight.encoders.timm_image import TimmImage
from mmlight.optim.adamw import AdamWSettings
from mmlight.tasks.contrastive import Contrastive
from mmlight.tasks.tower import Towers, TowerSettings


@dataclass(frozen=True)
class Model:
    """Sizes of both towers, and a batch that fits 80 GB."""

    name: str
    text_dim: int
    text_layers: int
    batch: int
    kwargs: dict[str, Any] | None = None


MODELS = {
    "B/32": Model("vit_base_patch32_clip_224", 512, 12, 1024),
    "B/16": Model("vit_base_patch16_clip_224", 512, 12, 384),
    "L/14": Model("vit_large_patch14_clip_224", 768, 12, 128),
}
QUICK = {"tiny": Model("vit_base_patch32_clip_224", 64, 2, 16, {"embed_dim": 64, "num_heads": 2})}
MEANS = ("padded", "packed", "compiled", "half", "fsdp")


def make_task(model: Model, means: str, device: torch.device) -> Contrastive:
    step = MEANS.index(means)
    text = {
        "model_type": "clip_text_model",
        "vocab_size": VOCABULARY,
        "hidden_size": model.text_dim,
        "intermediate_size": 4 * model.text_dim,
        "num_hidden_layers": model.text_layers,
        "num_attention_heads": max(model.text_dim // 64, 1),
        "max_position_embeddings": CONTEXT,
        "bos_token_id": START,
        "eos_token_id": END,
    }
    image = partial(
        TimmImage,
        model.name,
        kwargs=model.kwargs,
        patch_drop_rate=0.5 if means == "half" else 0.0,
    )
    texts = partial(
        HfText,
        config=text,
        pool="last",
        batching="auto" if step >= MEANS.index("packed") else "padded",
    )
    torch.manual_seed(0)
    task = Contrastive(
        towers=Towers(image=TowerSettings(encoder=image), text=TowerSettings(encoder=texts)),
        embed_dim=model.text_dim,
        compile="blocks" if step >= MEANS.index("compiled") and device.type == "cuda" else "none",
    )
    task.configure_model()
    task = task.to(device).train()
    if means == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh

        from mmlight.trainer.shard import shard

        shard(task, mesh=init_device_mesh(device.type, (1,)), bfloat16=device.type == "cuda")
    return task


def one_step(task: Contrastive, batch: Batch, optimizer: Any, device: torch.device) -> None:
    optimizer.zero_grad()
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        value = task.loss(batch).value
    value.backward()
    optimizer.step()
    task.after_step()


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def matmul_rate(device: torch.device) -> float:
    """Return FLOP/s of a large matrix product."""
    size = 8192 if device.type == "cuda" else 512
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    a = torch.randn(size, size, device=device, dtype=dtype)
    for _ in range(3):
        a @ a
    wait(device)
    started = time.perf_counter()
    for _ in range(20):
        a @ a
    wait(device)
    return 20 * 2 * size**3 / (time.perf_counter() - started)


def measure(
    model: Model, means: str, *, device: torch.device, size: int, steps: int, warm_up: int
) -> tuple[float, float]:
    """Return samples per second and peak memory in GB."""
    task = make_task(model, means, device)
    optimizer = AdamWSettings().build([{"params": list(task.parameters())}])
    batch = make_batch(size, 0).to(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(warm_up):
        one_step(task, batch, optimizer, device)
    wait(device)
    started = time.perf_counter()
    for _ in range(steps):
        one_step(task, batch, optimizer, device)
    wait(device)
    took = time.perf_counter() - started
    peak = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else float("nan")
    return size * steps / took, peak


def flops_per_sample(model: Model) -> float:
    """Count a training step on the CPU, padded."""
    task, batch = make_task(model, "padded", torch.device("cpu")), make_batch(2, 0)
    with FlopCounterMode(display=False) as counter:
        task.loss(batch).value.backward()
    return counter.get_total_flops() / batch.size


def main() -> None:
    parser = argparse.ArgumentParser(description="A step of CLIP on a GPU.")
    parser.add_argument("--quick", action="store_true", help="a tiny model")
    parser.add_argument("--batch", type=int, default=None)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=400.0, help="begin no row after this long")
    args = parser.parse_args()
    began = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = True
    rate = matmul_rate(device)
    steps, warm_up = (2, 1) if args.quick else (args.steps, 5)
    table = Table("model", "means", "batch", "samples/s", "share of the matrix rate", "peak GB")
    figures: dict[str, Any] = {"matmul_tflops": round(rate / 1e12, 1), "torch": torch.__version__}
    left_out: list[str] = []
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(
            backend, init_method=f"file://{os.path.join(folder, 'meeting')}", rank=0, world_size=1
        )
        stack.callback(dist.destroy_process_group)
        for name, model in (QUICK if args.quick else MODELS).items():
            flops, size = flops_per_sample(model), args.batch or model.batch
            for means in MEANS:
                if time.monotonic() - began > args.seconds:
                    left_out.append(f"{name} {means}")
                    continue
                speed, peak = measure(
                    model, means, device=device, size=size, steps=steps, warm_up=warm_up
                )
                share = speed * flops / rate
                table.add_row(name, means, str(size), f"{speed:.0f}", f"{share:.0%}", f"{peak:.1f}")
                key = f"{name} {means}"
                figures[key] = {"samples_per_s": round(speed, 1), "share": round(share, 3)}
                if device.type == "cuda":
                    figures[key]["peak_gb"] = round(peak, 2)
                    torch.cuda.empty_cache()
    Console().print(table)
    if left_out:
        print(f"not begun within {args.seconds:.0f} s: {', '.join(left_out)}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
