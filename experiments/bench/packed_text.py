"""A text tower's training step with captions padded, in groups of like lengths, and packed.

Purpose
    How much of the forward and backward pass of a text tower is padding, and how much of it
    `batching` of `mmlight.encoders.hf_text.HfText` saves, with which differences.

Command
    python experiments/bench/packed_text.py            # about eight minutes of CPU time
    python experiments/bench/packed_text.py --quick    # under a minute: one layer, B = 32

Hardware
    Any CPU, one thread.

What is measured
    Towers with the proportions of CLIP B/32's text tower (width 512, 8 heads, vocabulary of
    49,408) and two of its twelve layers: `causal` is a CLIP text model pooled at its last token,
    `bidirectional` a BERT pooled by the mean, both in float32 and without dropout. Caption lengths
    are log-normal with mean 18 and 95 % below 38, cut to 77; each batch has one of 77, as large
    batches do, so that padding to the longest is padding to 77.

    A step is the tower's forward pass, the cross entropy of its features against random ones, and
    the backward pass. CPU time of the process, so other programs count little. All ways run once
    per repeat, in a new order each time; a ratio compares the two of one repeat. Given are medians
    and, in brackets, the extremes. Differences are the largest among all gradients, absolute and in
    parts of the largest gradient.

Measured
    2026-11-24, one thread of a two-core AMD EPYC that other programs used at the same time, torch
    2.11.0, transformers 5.23.0, `--batch-sizes 128` (B = 512 is not measured). Padded time / this
    one, and the largest difference of gradients:

    causal         grouped 3.45 [2.88-3.53], 1.4e-7    packed 4.50 [4.06-5.51], 6.3e-8
    bidirectional  grouped 2.79 [2.52-3.11], 4.2e-7    packed 4.47 [3.17-4.67], 5.8e-7
"""

import argparse
import json
import math
import random
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mmlight.batch import Text
from mmlight.encoders.hf_text import HfText

WIDTH = 512
MAX_TOKENS = 77
VOCABULARY = 49_408
MEAN, SIGMA = 18.0, 0.54  # 95 % of captions below 38
WAYS = ("padded", "grouped", "packed")


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        num_layers: layers of a tower.
        batch_sizes: captions of a batch.
        repeats: steps of each way.
    """

    num_layers: int
    batch_sizes: tuple[int, ...]
    repeats: int


FULL = Plan(num_layers=2, batch_sizes=(128, 512), repeats=3)
QUICK = Plan(num_layers=1, batch_sizes=(32,), repeats=3)


def captions(size: int, *, seed: int) -> Text:
    """Return random captions of realistic lengths."""
    generator = torch.Generator().manual_seed(seed)
    normal_N = torch.randn(size, generator=generator, dtype=torch.float64)
    length_N = (math.log(MEAN) - SIGMA**2 / 2 + SIGMA * normal_N).exp().round().long()
    length_N = length_N.clamp(3, MAX_TOKENS)
    length_N[0] = MAX_TOKENS
    ids_NL = torch.randint(1, VOCABULARY, (size, MAX_TOKENS), generator=generator)
    mask_NL = torch.arange(MAX_TOKENS) < length_N[:, None]
    rows_N = torch.arange(size)
    return Text(ids_NL * mask_NL, mask_NL, mask_NL[:, 0], rows_N, rows_N)


def tower(kind: str, num_layers: int) -> HfText:
    """Return a tower in training mode."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = dict(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=num_layers,
        num_attention_heads=8,
        max_position_embeddings=MAX_TOKENS,
    )
    if kind == "causal":
        more = dict(model_type="clip_text_model", bos_token_id=49_406, eos_token_id=49_407)
        return HfText(config=sizes | more, pool="last").train()
    more = dict(model_type="bert", hidden_dropout_prob=0, attention_probs_dropout_prob=0)
    return HfText(config=sizes | more, pool="mean").train()


def step(encoder: HfText, text: Text, target_ND: Tensor) -> tuple[float, float]:
    """Return the loss and CPU seconds of a forward and backward pass; gradients stay."""
    encoder.zero_grad()
    started = time.process_time()
    features_ND = F.normalize(encoder(text).pooled_BD, dim=-1)
    logits_NN = features_ND @ target_ND.T / 0.07
    loss = F.cross_entropy(logits_NN, torch.arange(len(logits_NN)))
    loss.backward()
    return loss.item(), time.process_time() - started


def differences(encoder: HfText, text: Text, target_ND: Tensor) -> dict[str, dict[str, float]]:
    """Return how loss and gradients of each way differ from those of padded captions."""
    losses: dict[str, float] = {}
    gradients: dict[str, list[Tensor]] = {}
    for way in WAYS:
        encoder.text_batching = way  # type: ignore[assignment]
        losses[way], _ = step(encoder, text, target_ND)
        gradients[way] = [p.grad.clone() for p in encoder.parameters() if p.grad is not None]
    largest = max(float(g.abs().max()) for g in gradients["padded"])
    found: dict[str, dict[str, float]] = {}
    for way in WAYS[1:]:
        pairs = zip(gradients[way], gradients["padded"], strict=True)
        gap = max(float((got - wanted).abs().max()) for got, wanted in pairs)
        found[way] = {
            "loss": abs(losses[way] - losses["padded"]),
            "gradient": gap,
            "gradient_relative": gap / largest,
        }
    return found


def summarise(values: list[float], *, digits: int = 2) -> str:
    """Return the median and, in brackets, the extremes."""
    low, middle, high = (f"{f(values):.{digits}f}" for f in (min, statistics.median, max))
    return f"{middle} [{low}-{high}]"


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Compare a text tower's step on padded, grouped and packed captions."
    )
    parser.add_argument("--quick", action="store_true", help="a smaller tower; under a minute")
    parser.add_argument("--layers", type=int, help="layers of the towers (2; quick 1)")
    parser.add_argument("--batch-sizes", type=int, nargs="+", help="captions (128 512; quick 32)")
    parser.add_argument("--repeats", type=int, help="steps of each way (3)")
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else FULL
    plan = Plan(
        num_layers=plan.num_layers if arguments.layers is None else arguments.layers,
        batch_sizes=tuple(arguments.batch_sizes or plan.batch_sizes),
        repeats=plan.repeats if arguments.repeats is None else arguments.repeats,
    )
    repeats = plan.repeats
    if min(repeats, plan.num_layers, *plan.batch_sizes) < 1:
        parser.error("numbers must be 1 or more")
    torch.set_num_threads(1)
    started = time.monotonic()
    table = Table("tower", "B", "captions", "CPU s / step", "padded / this", "gradients differ by")
    figures: dict[str, Any] = {"num_layers": plan.num_layers, "repeats": repeats}
    for kind in ("causal", "bidirectional"):
        encoder = tower(kind, plan.num_layers)
        for size in plan.batch_sizes:
            target_ND = F.normalize(
                torch.randn(size, WIDTH, generator=torch.Generator().manual_seed(size)), dim=-1
            )
            text = captions(size, seed=size)
            # Also warms up.
            found = differences(encoder, text, target_ND)
            seconds: dict[str, list[float]] = {way: [] for way in WAYS}
            for repeat in range(repeats):
                text = captions(size, seed=1000 * size + repeat)
                order = list(WAYS)
                random.Random(repeat).shuffle(order)
                for way in order:
                    encoder.text_batching = way  # type: ignore[assignment]
                    seconds[way].append(step(encoder, text, target_ND)[1])
            for way in WAYS:
                ratios = [a / b for a, b in zip(seconds["padded"], seconds[way], strict=True)]
                gap = found.get(way)
                shown = f"{gap['gradient']:.1e} ({gap['gradient_relative']:.1e})" if gap else ""
                table.add_row(
                    kind, str(size), way, summarise(seconds[way]), summarise(ratios), shown
                )
                key = f"{kind}_{size}_{way}"
                figures[f"{key}_cpu_s"] = round(statistics.median(seconds[way]), 3)
                figures[f"{key}_ratio"] = round(statistics.median(ratios), 2)
                for name, value in (gap or {}).items():
                    figures[f"{key}_{name}_difference"] = float(f"{value:.2e}")
    Console().print(table)
    figures["seconds"] = round(time.monotonic() - started, 1)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
