"""What a key-value cache saves: 512 new tokens with and without, from equal weights.

Purpose
    How much faster an answer is where keys and values of what was said are kept, for a decoder of
    our own and for GPT-2 and Llama of transformers; and that both ways say the same.

Command
    python experiments/bench/generate.py             # some minutes
    python experiments/bench/generate.py --quick     # smaller decoders, 128 tokens; under a minute

Hardware
    Any CPU, one thread. Where other programs use the machine, compare ratios.

What is measured
    cached     `mmlight.decoders.generate.generate`, greedy: one place is computed for each token.
    anew       the same loop, in which a decoder keeps nothing: all places, for each token.

    float32, one prompt of 8 tokens, 6 layers of 384 features. CPU time, in turn; medians.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from mmlight.decoders.answer import token_prompt
from mmlight.decoders.decoder import Decoder
from mmlight.decoders.generate import generate
from mmlight.decoders.hf_decoder import HfDecoder
from mmlight.decoders.sampling import Sampling
from mmlight.decoders.transformer_decoder import TransformerDecoder

VOCABULARY = 1000
NAMES = ("own", "gpt2", "llama")
PROMPT = [11, 7, 3, 99, 250, 8, 17, 42]


def make(name: str, *, layers: int, dim: int, tokens: int) -> Decoder:
    """Return a decoder with random weights."""
    torch.manual_seed(0)
    heads, places = dim // 64, tokens + len(PROMPT)
    if name == "own":
        made: Decoder = TransformerDecoder(
            vocab_size=VOCABULARY, dim=dim, num_layers=layers, num_heads=heads, max_tokens=places
        )
    else:
        sizes: dict[str, Any] = {
            "vocab_size": VOCABULARY,
            "hidden_size": dim,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "max_position_embeddings": places,
            **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
        }
        more = {} if name == "gpt2" else {"intermediate_size": 3 * dim}
        made = HfDecoder(config={"model_type": name, **sizes, **more})
    return made.eval()


def cached(decoder: Decoder, tokens: int) -> list[int]:
    prompt = token_prompt(decoder, [PROMPT], device=torch.device("cpu"))
    (found,) = generate(decoder, prompt, Sampling(max_new_tokens=tokens), end_id=None)
    return found.tokens


@torch.no_grad()
def anew(decoder: Decoder, tokens: int) -> list[int]:
    said = list(PROMPT)
    for _ in range(tokens):
        hidden_NLD = decoder.decode(decoder.embed(torch.tensor([said])))
        said.append(int(decoder.logits(hidden_NLD[:, -1:])[0, 0].argmax()))
    return said[len(PROMPT) :]


def timed(call: Callable[[], list[int]]) -> tuple[float, list[int]]:
    start = time.process_time()
    found = call()
    return time.process_time() - start, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="smaller decoders, fewer tokens")
    parser.add_argument("--repeats", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--only", choices=NAMES, help="one of the decoders")
    args = parser.parse_args()
    torch.set_num_threads(1)
    tokens, layers, dim = (128, 2, 128) if args.quick else (512, 6, 384)
    figures: dict[str, Any] = {"new_tokens": tokens}
    table = Table("decoder", "cached, s", "anew, s", "times as fast", "same tokens")
    for name in [args.only] if args.only else NAMES:
        decoder = make(name, layers=layers, dim=dim, tokens=tokens)
        cached(decoder, 4)
        anew(decoder, 4)
        ways = {"cached": partial(cached, decoder, tokens), "anew": partial(anew, decoder, tokens)}
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        said: dict[str, list[int]] = {}
        for _ in range(args.repeats):
            for way, call in ways.items():
                spent, said[way] = timed(call)
                seconds[way].append(spent)
        middle = {way: statistics.median(values) for way, values in seconds.items()}
        ratios = [a / c for a, c in zip(seconds["anew"], seconds["cached"], strict=True)]
        figures[name] = {
            "cached_s": middle["cached"],
            "anew_s": middle["anew"],
            "ratio": statistics.median(ratios),
            "ratios": ratios,
            "same_tokens": said["cached"] == said["anew"],
        }
        table.add_row(
            name,
            f"{middle['cached']:.2f}",
            f"{middle['anew']:.2f}",
            f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})",
            str(said["cached"] == said["anew"]),
        )
    Console(width=100).print(table)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
