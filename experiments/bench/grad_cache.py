"""GradCache against a plain step: time and memory of one contrastive step in chunks.

Purpose
    A batch in chunks must cost about one more forward pass (4/3 of a plain step), less one chunk,
    and hold the activations of one chunk.

Command
    python experiments/bench/grad_cache.py            # about five minutes
    python experiments/bench/grad_cache.py --quick    # a smaller batch; under a minute

Hardware
    Any CPU, one thread.

What is measured
    Forward, loss and backward of image and text towers of ViT-B/32's proportions (a third of the
    depth), plain and in 4 chunks, in turn, in one process; CPU time. Peak memory is the growth of
    the resident set in a process of its own for each.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from functools import partial

import torch
from rich.console import Console
from rich.table import Table

from mmlight.batch import Batch, Images, Text
from mmlight.costs.meters import peak_resident_bytes
from mmlight.encoders.hf_text import HfText
from mmlight.encoders.timm_image import TimmImage
from mmlight.tasks.contrastive import Contrastive
from mmlight.tasks.tower import Towers, TowerSettings

CHUNKS = 4


def make_task() -> Contrastive:
    torch.manual_seed(0)
    text = {
        "model_type": "clip_text_model",
        "vocab_size": 1000,
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "max_position_embeddings": 77,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    task = Contrastive(
        towers=Towers(
            image=TowerSettings(
                encoder=partial(
                    TimmImage, "vit_base_patch32_224", kwargs={"depth": 4, "embed_dim": 768}
                )
            ),
            text=TowerSettings(encoder=partial(HfText, config=text, pool="last")),
        )
    )
    task.configure_model()
    return task.train()


def make_batch(size: int) -> Batch:
    draws = torch.Generator().manual_seed(0)
    here, rows = torch.ones(size, dtype=torch.bool), torch.arange(size)
    pixels = torch.randint(0, 256, (size, 3, 224, 224), generator=draws, dtype=torch.uint8)
    ids = torch.randint(3, 1000, (size, 24), generator=draws)
    text = Text(ids, torch.ones_like(ids, dtype=torch.bool), here, rows, rows)
    return Batch(rows, ["-"] * size, 0, 0, here, image=Images(pixels, here), text=text)


def one_step(task: Contrastive, batch: Batch, *, chunks: int) -> float:
    """Return CPU-seconds of forward, loss and backward."""
    task.zero_grad()
    task.grad_cache = None if chunks == 1 else batch.size // chunks
    started = time.process_time()
    task.loss(batch).value.backward()
    return time.process_time() - started


def peak_mb(size: int, chunks: int) -> float:
    """Return the growth of the resident set over one step, in MB."""
    torch.set_num_threads(1)
    task, small, batch = make_task(), make_batch(CHUNKS), make_batch(size)
    one_step(task, small, chunks=1)  # gradients and buffers exist from here on
    before = peak_resident_bytes()
    one_step(task, batch, chunks=chunks)
    return (peak_resident_bytes() - before) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare a contrastive step plain and in chunks.")
    parser.add_argument("--quick", action="store_true", help="a smaller batch")
    size, repeats = (16, 2) if parser.parse_args().quick else (64, 5)
    torch.set_num_threads(1)
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        plain_mb, chunks_mb = pool.starmap(peak_mb, [(size, 1), (size, CHUNKS)], chunksize=1)
    task, batch = make_task(), make_batch(size)
    seconds: dict[int, list[float]] = {1: [], CHUNKS: []}
    for repeat in range(repeats + 1):
        for chunks in sorted(seconds, reverse=bool(repeat % 2)):
            took = one_step(task, batch, chunks=chunks)
            if repeat:  # the first of each warms up
                seconds[chunks].append(took)
    ratios = [c / p for c, p in zip(seconds[CHUNKS], seconds[1], strict=True)]
    ratio, memory = statistics.median(ratios), chunks_mb / plain_mb
    table = Table("", "CPU-s a step", "peak memory, MB")
    for chunks, mb in ((1, plain_mb), (CHUNKS, chunks_mb)):
        told = "plain" if chunks == 1 else f"{chunks} chunks"
        table.add_row(told, f"{statistics.median(seconds[chunks]):.2f}", f"{mb:.0f}")
    console = Console()
    console.print(table)
    console.print(
        f"time {ratio:.2f} x ({min(ratios):.2f} to {max(ratios):.2f}), {memory:.2f} x memory"
    )
    figures = {"batch": size, "chunks": CHUNKS, "time_ratio": round(ratio, 3)}
    print(json.dumps(figures | {"memory_ratio": round(memory, 3)}))


if __name__ == "__main__":
    main()
