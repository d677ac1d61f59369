"""Processes that train from shards of a server, note what they see, and may be killed."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import lightning
import torch

from mmlight.data.members import Members
from mmlight.data.module import ShardDataModule
from mmlight.data.shards.cache import ShardCache
from mmlight.data.splits.split import Split
from mmlight.data.text import TextSettings
from mmlight.text.tokenizer import ByteTokenizer

GLOBAL_BATCH = 16
_SAVE_EVERY = 2


class Model(lightning.LightningModule):
    """Learns one number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx) -> torch.Tensor:
        return (self.weight - 1.0) ** 2

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class Note(lightning.Callback):
    """Writes a line for each step, and now and then a checkpoint."""

    def __init__(self, folder: Path, attempt: int) -> None:
        self.folder, self.attempt = folder, attempt

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        line = {
            "step": trainer.global_step - 1,
            "rank": trainer.global_rank,
            "world_size": trainer.world_size,
            "keys": list(batch.keys),
            "tokens": batch.text.token_ids_NL.sum(1).tolist(),
        }
        name = f"{self.attempt:03d}-{trainer.global_rank}.jsonl"
        with (self.folder / name).open("a") as file:
            file.write(json.dumps(line) + "\n")
        if trainer.global_step % _SAVE_EVERY == 0:
            trainer.save_checkpoint(self.folder / "last.ckpt")


def data(shards: str, *, cache: ShardCache | None = None, num_workers: int = 0) -> ShardDataModule:
    return ShardDataModule(
        members=Members(text="txt"),
        train=Split(shards),
        text=TextSettings(tokenizer=ByteTokenizer(), max_tokens=16),
        global_batch_size=GLOBAL_BATCH,
        num_lanes=4,
        window=32,
        num_workers=num_workers,
        cache=cache,
    )


def train(
    rank: int,
    world_size: int,
    port: int,
    attempt: int,
    folder: Path,
    settings: dict[str, Any],
    steps: int,
    environment: dict[str, str],
) -> None:
    """Be one rank of an attempt: go on from the last checkpoint, if there is one."""
    os.environ.update(environment)
    options: dict[str, Any] = {}
    if world_size > 1:
        os.environ.update(LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        options = {"devices": world_size, "strategy": "ddp"}
    last = folder / "last.ckpt"
    lightning.Trainer(
        accelerator="cpu",
        max_steps=steps,
        use_distributed_sampler=False,
        callbacks=[Note(folder, attempt)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
        **options,
    ).fit(Model(), data(**settings), ckpt_path=last if last.exists() else None, weights_only=True)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def noted(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of all attempts and ranks; one that was being written is left out."""
    lines = []
    for path in sorted(folder.glob("*.jsonl")):
        whole = path.read_text().rpartition("\n")[0]
        lines += [json.loads(line) for line in whole.splitlines()]
    return lines
