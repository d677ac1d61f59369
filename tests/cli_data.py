"""A tiny tri-modal data set, an experiment on it, and the real command line run on both."""

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import soundfile
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from PIL import Image

from mmlight.__main__ import main
from mmlight.data.module import ShardDataModule
from mmlight.runs.run.metrics_log import read_rows
from mmlight.tasks.task import Task

COLOURS = {"red": (220, 40, 40), "green": (40, 190, 60), "blue": (50, 80, 230), "grey": (99,) * 3}
RATE_HZ = 4000
VIT = {"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
MEMBERS = {"image": "png", "audio": "flac", "text": "txt", "label": "cls"}


def make_sample(number: int) -> dict[str, bytes]:
    """A noisy square, a tone and a sentence that tell the same colour."""
    draws = np.random.default_rng(number)
    label = number % len(COLOURS)
    name = list(COLOURS)[label]
    noise = draws.integers(-20, 20, (16, 16, 3))
    pixels = np.clip(np.array(COLOURS[name]) + noise, 0, 255).astype(np.uint8)
    picture = io.BytesIO()
    Image.fromarray(pixels).save(picture, "PNG")
    length = int(draws.integers(300, 600))
    wave = 0.5 * np.sin(2 * np.pi * 300 * (label + 1) * np.arange(length) / RATE_HZ)
    tone = io.BytesIO()
    soundfile.write(tone, wave, RATE_HZ, format="FLAC")
    caption = f"{name} {number % 7}"
    return {
        "png": picture.getvalue(),
        "flac": tone.getvalue(),
        "txt": caption.encode(),
        "json": json.dumps(
            {"captions": [caption, f"a {name} one"], "place": ("sea", "hill")[number % 3 > 0]}
        ).encode(),
        "cls": str(label).encode(),
    }


def write_shard(path: Path, numbers: range, *, without: tuple[str, ...] = ()) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for number in numbers:
            for extension, data in make_sample(number).items():
                if extension not in without:
                    info = tarfile.TarInfo(f"{number:04d}.{extension}")
                    info.size = len(data)
                    file.addfile(info, io.BytesIO(data))
    return path


def write_data(folder: Path) -> Path:
    """Make train (40 samples in 2 shards), val (10) and test (8), and class names."""
    write_shard(folder / "train/0.tar", range(0, 20))
    write_shard(folder / "train/1.tar", range(20, 40))
    write_shard(folder / "val/0.tar", range(40, 50))
    write_shard(folder / "test/0.tar", range(50, 58))
    (folder / "classnames.txt").write_text("\n".join(COLOURS) + "\n")
    return folder


def experiment(data: Path, runs: Path) -> dict[str, Any]:
    """Return an experiment of three tiny transformers; 5 steps an epoch, nothing random in it."""
    image = {"name": "vit_tiny_patch16_224", "img_size": 16, "kwargs": VIT}
    text = {
        "model_type": "clip_text_model",
        "vocab_size": 260,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 16,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    audio = {
        "name": "vit_tiny_patch16_224",
        "mel": {"sample_rate_hz": RATE_HZ, "n_mels": 16},
        "frames": 16,
        "kwargs": VIT,
    }
    encoders = "mmlight.encoders"
    return {
        "seed_everything": 0,
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "max_steps": 6,
            "log_every_n_steps": 1,
            "check_val_every_n_epoch": 1,
        },
        "run": {"root": str(runs)},
        "model": {
            "class_path": "mmlight.tasks.contrastive.Contrastive",
            "init_args": {
                "embed_dim": 8,
                "objective": {"class_path": "mmlight.objectives.clip.Clip"},
                "optimizer": {"lr": 1.0e-3},
                "schedule": {"warmup_steps": 2, "kind": "constant"},
                "towers": {
                    "image": _tower(f"{encoders}.timm_image.TimmImage", image),
                    "text": _tower(f"{encoders}.hf_text.HfText", {"config": text, "pool": "last"}),
                    "audio": _tower(f"{encoders}.mel_timm.MelTimm", audio),
                },
            },
        },
        "data": {
            "class_path": "mmlight.data.module.ShardDataModule",
            "init_args": {
                "members": dict(MEMBERS),
                **{
                    split: {"shards": str(data / folder)}
                    for split, folder in {
                        "train": "train",
                        "val": "val",
                        "test": "test",
                        "predict": "test",
                    }.items()
                },
                "class_names": str(data / "classnames.txt"),
                "image": {"size": 16},
                "audio": {"sample_rate_hz": RATE_HZ, "max_seconds": 0.2},
                "text": {
                    "tokenizer": {"class_path": "mmlight.text.tokenizer.ByteTokenizer"},
                    "max_tokens": 16,
                },
                "global_batch_size": 8,
                "eval_batch_size": 4,
                "num_workers": 0,
            },
        },
    }


def _tower(class_path: str, init_args: dict[str, Any]) -> dict[str, Any]:
    return {"encoder": {"class_path": class_path, "init_args": init_args}}


def language(values: dict[str, Any], *, dropout: float = 0.1) -> dict[str, Any]:
    """Return the experiment of a language model of its texts, in windows."""
    encoder = {
        "class_path": "mmlight.decoders.transformer_decoder.TransformerDecoder",
        "init_args": {
            **{"vocab_size": 260, "dim": 16, "num_layers": 2, "num_heads": 2, "max_tokens": 16},
            "dropout": dropout,
        },
    }
    given = values["model"]["init_args"]
    kept = {name: given[name] for name in ("optimizer", "schedule")}
    model = {
        "class_path": "mmlight.tasks.causal_language.CausalLanguage",
        "init_args": {"towers": {"text": {"encoder": encoder}}, **kept},
    }
    data = {
        **{"image": None, "audio": None, "class_names": None, "members": {"text": "txt"}},
        "text.documents": "windows",
        "text.max_tokens": 6,
    }
    changes = {f"data.init_args.{name}": value for name, value in data.items()}
    return changed(values, {"model": model} | changes)


def changed(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a copy with ``{"trainer.max_steps": 3}`` set; None removes a key."""
    result = deepcopy(values)
    for path, value in changes.items():
        *above, last = path.split(".")
        place = result
        for key in above:
            place = place.setdefault(key, {})
        if value is None:
            del place[last]
        else:
            place[last] = value
    return result


def write_yaml(path: Path, values: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def run_in_process(*arguments: str | Path) -> int:
    """Run one command as its own process would: without the run id that the last one exported."""
    for name in ("MMLIGHT_RUN_ID", "MMLIGHT_RUN_OWNER", "PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        os.environ.pop(name, None)
    return main([str(argument) for argument in arguments])


def start(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """Start one command as a process, on one thread."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MMLIGHT_", "PL_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "mmlight", *map(str, arguments)],
        cwd=cwd,
        env={**kept, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def only_run(runs: Path, name: str = "tiny") -> Path:
    """Return the folder of the one run there is."""
    folders = list((runs / name).iterdir())
    assert len(folders) == 1, folders
    return folders[0]


def losses(run: Path) -> dict[int, float]:
    """Return the training loss by step, with every digit."""
    rows = read_rows(run / "metrics.jsonl")
    return {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}


def build(values: dict[str, Any]) -> tuple[Task, ShardDataModule]:
    """Build the model and the data of an experiment as the command line does."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Task, "model", required=True)
    parser.add_subclass_arguments(ShardDataModule, "data", required=True)
    parsed = parser.parse_object({key: values[key] for key in ("model", "data")})
    built = parser.instantiate(parsed)
    return built.model, built.data


def fit(
    values: dict[str, Any],
    folder: Path,
    *,
    callbacks: Sequence[Callback] = (),
    ckpt_path: Path | None = None,
) -> Task:
    """Train without the command line, which spends two seconds on parsing; return the model."""
    lightning.seed_everything(values["seed_everything"], workers=True, verbose=False)
    task, data = build(values)
    trainer = lightning.Trainer(
        **values["trainer"],
        deterministic="warn",
        enable_model_summary=False,
        enable_progress_bar=False,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        logger=False,
        callbacks=list(callbacks),
        default_root_dir=folder,
    )
    trainer.fit(task, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return task


class Losses(Callback):
    """Notes the loss of every batch, by epoch and step."""

    def __init__(self) -> None:
        self.by_batch: dict[tuple[int, int], float] = {}

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.by_batch[batch.epoch, batch.step] = float(outputs["loss"])
