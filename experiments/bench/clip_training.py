"""A whole training command on shards: `mmlight fit` against open_clip's training.

Purpose
    How many samples of a tiny CLIP a CPU-second trains, all in: reading shards, decoding, cropping,
    tokenising, the step, logging.

Command
    python experiments/bench/clip_training.py --open-clip FOLDER            # about fifteen minutes
    python experiments/bench/clip_training.py --open-clip FOLDER --quick    # one short pair

    FOLDER holds open_clip and the webdataset it needs (mmlight needs a newer one): `make slow`
    installs both into .venv/peers, as `pip install --no-deps --target FOLDER` does.

Hardware
    Any CPU; one thread and one worker process for either side. Where other programs use the
    machine, compare ratios.

What is measured
    Data: photograph-like JPEGs of 256-512 px and captions whose lengths are log-normal (mean 18
    tokens, 95 % below 38, at most 77), in eight webdataset shards, made anew.
    Model: ViT of 112 px, patch 16, width 192, four blocks; causal text tower of width 192, four
    blocks, 77 positions, CLIP's vocabulary; batch 64, float32.

    open_clip   `python -m open_clip_train.main` with this model's settings.
    mmlight     `mmlight fit` with this model in YAML: the same crops, the same tokens (CLIP's
                vocabulary, taken from open_clip), the same optimiser, the defaults otherwise.

    CPU time (user + system) of the command with its workers. Each side trains a few steps in one
    command and many in another; the difference has no imports and no start-up in it. The sides
    alternate; a ratio compares the two of one repeat. Given are medians and the extremes.
"""

import argparse
import gzip
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import yaml
from loader import MEAN, STD, photograph
from rich.console import Console
from rich.table import Table

from mmlight.data.packing.write import pack

SIZE, PATCH, WIDTH, LAYERS, HEADS, DIM = 112, 16, 192, 4, 3, 192
CONTEXT, VOCABULARY, START, END = 77, 49408, 49406, 49407
BATCH = 64
NUM_SHARDS = 8
LR, WEIGHT_DECAY, BETAS, EPS = 5.0e-4, 0.2, [0.9, 0.98], 1.0e-6
WORDS = "a small red round thing over two grey hills at night under the old wooden bridge".split()


def make_shards(folder: Path, num_samples: int) -> str:
    """Write the shards; return their pattern."""
    draws = np.random.default_rng(0)
    # Decoding costs what it costs; drawing each image anew would only take time.
    images = [photograph(draws) for _ in range(min(num_samples, 512))]
    lengths = np.clip(np.rint(draws.lognormal(2.77, 0.48, num_samples)), 3, CONTEXT).astype(int)
    samples = (
        {
            "__key__": f"{i:06d}",
            "jpg": images[i % len(images)],
            "txt": " ".join(draws.choice(WORDS, lengths[i] - 2)),
        }
        for i in range(num_samples)
    )
    pack(samples, folder, samples_per_shard=num_samples // NUM_SHARDS)
    return str(folder / f"{{00000..{NUM_SHARDS - 1:05d}}}.tar")


def make_tokenizer(peer: Path, folder: Path) -> None:
    """Write CLIP's tokenizer as transformers has it, from the merges that open_clip brings."""
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    with gzip.open(
        peer / "open_clip" / "bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8"
    ) as f:
        lines = f.read().split("\n")
    merges = [tuple(line.split()) for line in lines[1 : VOCABULARY - 2 - 2 * 256 + 1]]
    characters = list(bytes_to_unicode().values())
    tokens = [
        *characters,
        *(f"{character}</w>" for character in characters),
        *("".join(merge) for merge in merges),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    CLIPTokenizer(vocabulary, merges).save_pretrained(folder)


def write_peer_model(folder: Path) -> None:
    text = {
        "context_length": CONTEXT,
        "vocab_size": VOCABULARY,
        "width": DIM,
        "heads": HEADS,
        "layers": LAYERS,
    }
    image = {
        "image_size": SIZE,
        "layers": LAYERS,
        "width": WIDTH,
        "head_width": WIDTH // HEADS,
        "patch_size": PATCH,
    }
    values = {"embed_dim": DIM, "vision_cfg": image, "text_cfg": text}
    (folder / "tiny-vit.json").write_text(json.dumps(values))


def peer_command(folder: Path, shards: str, num_samples: int) -> list[str]:
    start = (
        "import sys, open_clip\n"
        f"open_clip.add_model_config({str(folder / 'tiny-vit.json')!r})\n"
        "from open_clip_train.main import main\n"
        "main(sys.argv[1:])\n"
    )
    settings = {
        "train-data": shards,
        "train-num-samples": num_samples,
        "dataset-type": "webdataset",
        "model": "tiny-vit",
        "batch-size": BATCH,
        "epochs": 1,
        "workers": 1,
        "precision": "fp32",
        "device": "cpu",
        "lr": LR,
        "wd": WEIGHT_DECAY,
        "beta1": BETAS[0],
        "beta2": BETAS[1],
        "eps": EPS,
        "warmup": 2,
        "logs": folder / "logs",
        "log-every-n-steps": 10,
    }
    arguments = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    return [sys.executable, "-c", start, *arguments]


def write_experiment(folder: Path, shards: str) -> Path:
    image = {
        "name": f"vit_base_patch{PATCH}_clip_224",
        "img_size": SIZE,
        "mean": list(MEAN),
        "std": list(STD),
        "kwargs": {
            "embed_dim": WIDTH,
            "depth": LAYERS,
            "num_heads": HEADS,
        },
    }
    text = {
        "pool": "last",
        "config": {
            "model_type": "clip_text_model",
            "vocab_size": VOCABULARY,
            "hidden_size": DIM,
            "intermediate_size": 4 * DIM,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "max_position_embeddings": CONTEXT,
            "hidden_act": "gelu",
            "bos_token_id": START,
            "eos_token_id": END,
        },
    }
    values = {
        "seed_everything": 0,
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "precision": "32-true",
            "max_epochs": 1,
            "log_every_n_steps": 10,
        },
        "model": {
            "class_path": "mmlight.tasks.contrastive.Contrastive",
            "init_args": {
                "embed_dim": DIM,
                "optimizer": {
                    "lr": LR,
                    "betas": BETAS,
                    "eps": EPS,
                    "weight_decay": WEIGHT_DECAY,
                },
                "schedule": {"warmup_steps": 2, "kind": "cosine"},
                "towers": {
                    "image": {
                        "encoder": {
                            "class_path": "mmlight.encoders.timm_image.TimmImage",
                            "init_args": image,
                        }
                    },
                    "text": {
                        "encoder": {
                            "class_path": "mmlight.encoders.hf_text.HfText",
                            "init_args": text,
                        }
                    },
                },
            },
        },
        "data": {
            "class_path": "mmlight.data.module.ShardDataModule",
            "init_args": {
                "members": {"image": "jpg", "text": "txt"},
                "train": {"shards": shards},
                "image": {"size": SIZE, "train_crop": "random_resized", "scale": [0.9, 1.0]},
                "text": {
                    "tokenizer": {
                        "class_path": "mmlight.text.json_tokenizer.HfTokenizer",
                        "init_args": {"path": str(folder / "tokenizer")},
                    },
                    "max_tokens": CONTEXT,
                    "clean": "clip",
                },
                "global_batch_size": BATCH,
                "num_workers": 1,
            },
        },
        "run": {"root": str(folder / "runs")},
    }
    path = folder / "tiny_clip.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def cpu_seconds(command: list[str], folder: Path, peer: Path | None) -> float:
    """Run the command; return the CPU time of it and of its workers."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    if peer is not None:
        environment["PYTHONPATH"] = str(peer)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command[:4])} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description="Training on shards: mmlight against open_clip.")
    parser.add_argument(
        "--open-clip", default=os.environ.get("OPEN_CLIP"), help="the folder with open_clip"
    )
    parser.add_argument("--quick", action="store_true", help="one short pair")
    args = parser.parse_args()
    if args.open_clip is None:
        parser.error("--open-clip FOLDER is needed (see the top of this file)")
    peer = Path(args.open_clip).resolve()
    few, many, repeats = (2, 8, 1) if args.quick else (4, 44, 3)
    found: dict[str, list[float]] = {"open_clip": [], "mmlight": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = make_shards(folder / "shards", many * BATCH)
        make_tokenizer(peer, folder / "tokenizer")
        write_peer_model(folder)
        path = write_experiment(folder, shards)
        for number in range(repeats):
            for side in sorted(found, reverse=bool(number % 2)):
                seconds = []
                for steps in (few, many):
                    if side == "mmlight":
                        command = [sys.executable, "-m", "mmlight", "fit", "-c", str(path)]
                        command += ["--trainer.max_steps", str(steps)]
                    else:
                        command = peer_command(folder, shards, steps * BATCH)
                    seconds.append(
                        cpu_seconds(command, folder, None if side == "mmlight" else peer)
                    )
                rate = (many - few) * BATCH / (seconds[1] - seconds[0])
                found[side].append(rate)
                print(f"{side}: {rate:.1f} samples per CPU-second", file=sys.stderr)
    ratios = [
        ours / peers for ours, peers in zip(found["mmlight"], found["open_clip"], strict=True)
    ]
    table = Table("", "samples per CPU-second", "CPU-ms per sample")
    for side, rates in found.items():
        rate = statistics.median(rates)
        table.add_row(side, f"{rate:.1f}", f"{1000 / rate:.1f}")
    console = Console()
    console.print(table)
    ratio = statistics.median(ratios)
    console.print(f"{ratio:.2f} x ({min(ratios):.2f} to {max(ratios):.2f})")
    print(json.dumps({"steps": many - few, "batch": BATCH, "ratio": round(ratio, 3)} | found))


if __name__ == "__main__":
    main()
