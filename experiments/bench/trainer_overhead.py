"""What `mmlight fit` adds to a training step: against a bare PyTorch loop and Lightning alone.

Purpose
    How many milliseconds of CPU time the trainer, mmlight's callbacks and its loggers add to a
    step of about 2 ms. The goal is at most 0.5 ms more than Lightning alone adds, and under 1 % of
    a step of 100 ms, with logging on.

Command
    python experiments/bench/trainer_overhead.py            # two minutes
    python experiments/bench/trainer_overhead.py --quick    # under a minute: wider spread
    python experiments/bench/trainer_overhead.py --every 50 # log as rarely as Lightning does

Hardware
    Any CPU, one thread, no GPU.

What is measured
    The same tiny classifier of images (three layers, 64 samples of 16 pixels' side) on the same
    batches, which are made beforehand.

    bare      zero_grad, training_step, backward, the clipping of gradients, the step of the same
              fused AdamW and of its schedule. Nothing is logged.
    lightning Lightning's trainer alone, with none of mmlight's callbacks; nothing is logged.
    mmlight   what `mmlight fit` builds: the trainer with the callbacks Progress, Record,
              TokenCount, Throughput, SkippedSteps, OwedValidation and the checkpoints, the run
              folder's logger, and gradient clipping.

    They take turns. A measurement is the CPU time of this process over the steps after the first
    tenth. Given are medians over the turns and, in brackets, the extremes; what one adds to another
    is the median of the differences of the two in one turn.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import lightning
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from mmlight.batch import Batch, Images
from mmlight.callbacks.measuring.throughput import Throughput
from mmlight.callbacks.recording.record import Record
from mmlight.callbacks.showing.progress import Progress
from mmlight.encoders.encoder import Block, Encoded, Encoder
from mmlight.experiment.messages import quieten
from mmlight.optim.groups import weight_decay_groups
from mmlight.runs.run.folder import Run
from mmlight.tasks.classification import Classification
from mmlight.tasks.tower import Towers, TowerSettings
from mmlight.trainer.axes import TokenCount
from mmlight.trainer.checkpoint_files import AtomicCheckpointIO
from mmlight.trainer.checkpoints import CheckpointSettings
from mmlight.trainer.left_out import SkippedSteps
from mmlight.trainer.owed_validation import OwedValidation

BATCH_SIZE, SIDE, DIM = 64, 16, 256


class Perceptron(Encoder):
    """Two layers on pixels."""

    modality = "image"

    def __init__(self) -> None:
        super().__init__()
        self.out_dim = self.token_dim = DIM
        self.layers = nn.Sequential(
            nn.Linear(3 * SIDE * SIDE, DIM), nn.GELU(), nn.Linear(DIM, DIM), nn.GELU()
        )

    def forward(self, inputs: Images, *, tokens: bool = False) -> Encoded:
        return Encoded(self.layers(inputs.pixels_BCHW.flatten(1).float() / 255), None, None)

    def blocks(self) -> list[Block]:
        return [Block("layers", (self.layers,), False)]

    def rebuild_args(self) -> dict[str, Any]:
        return {}

    def set_checkpointing(self, on: bool) -> None:
        raise NotImplementedError


class Batches(lightning.LightningDataModule):
    """The same batch again and again."""

    global_batch_size = BATCH_SIZE

    def __init__(self, num_steps: int) -> None:
        super().__init__()
        self.num_steps = num_steps

    def preprocessing(self) -> dict[str, Any]:
        return {"image": {"size": SIDE, "channels": 3}, "class_names": list("abcdefgh")}

    def train_dataloader(self) -> "Batches":
        return self

    def __len__(self) -> int:
        return self.num_steps

    def __iter__(self) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(0)
        here_B = torch.ones(BATCH_SIZE, dtype=torch.bool)
        pixels = torch.randint(
            0, 256, (BATCH_SIZE, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8
        )
        for step in range(self.num_steps):
            yield Batch(
                index_B=torch.arange(BATCH_SIZE),
                keys=["key"] * BATCH_SIZE,
                epoch=0,
                step=step,
                valid_B=here_B,
                image=Images(pixels, here_B),
                label_B=torch.arange(BATCH_SIZE) % 8,
            )


class Clock(lightning.Callback):
    """Takes the CPU time between two steps."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last, self.times = first, last, [0.0, 0.0]

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step in (self.first, self.last):
            self.times[trainer.global_step == self.last] = time.process_time()


def task() -> Classification:
    torch.manual_seed(0)
    return Classification(towers=Towers(image=TowerSettings(encoder=partial(Perceptron))))


def bare(num_steps: int) -> float:
    """Return the CPU milliseconds of a step without a trainer."""
    model, data = task(), Batches(num_steps)
    model.preprocessing = data.preprocessing()
    model.log_gated = lambda values: None  # type: ignore[method-assign]
    model.configure_model()
    model.train()
    settings = model.optimizer_settings
    groups = weight_decay_groups(
        model, weight_decay=settings.weight_decay, no_decay=set(), lr=settings.lr, lr_scales={}
    )
    optimizer = settings.build(groups)
    schedule = model.schedule.build(optimizer, num_steps)
    began = 0.0
    for step, batch in enumerate(data):
        if step == num_steps // 10:
            began = time.process_time()
        optimizer.zero_grad()
        loss: Tensor = model.training_step(batch, step)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return 1e3 * (time.process_time() - began) / (num_steps - num_steps // 10)


def trained(num_steps: int, folder: Path, *, own: bool = True, every: int = 10) -> float:
    """Return the CPU milliseconds of a step in the trainer.

    Args:
        num_steps: how many.
        folder: for the run.
        own: with mmlight's callbacks and logger; without, Lightning alone, which logs nothing.
        every: how many steps lie between two that are logged.
    """
    # The last step's checkpoint is left out.
    clock = Clock(num_steps // 10, num_steps - 1)
    run = Run.create(folder, name="overhead", run_id=str(time.monotonic_ns()))
    record = Record(run, verb="fit", config={"seed_everything": 0})
    callbacks = [
        *(Progress(), record, TokenCount(), Throughput()),
        *(SkippedSteps(run, most=10), OwedValidation()),
        *CheckpointSettings().callbacks(run.checkpoints),
    ]
    model, data = task(), Batches(num_steps)
    if not own:
        model.log_gated = lambda values: None  # type: ignore[method-assign]
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=num_steps,
        log_every_n_steps=every,
        gradient_clip_val=1.0,
        enable_model_summary=False,
        enable_progress_bar=own,
        limit_val_batches=0,
        enable_checkpointing=own,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        deterministic="warn",
        callbacks=[clock, *(callbacks if own else [])],
        logger=list(record.loggers()) if own else False,
        plugins=[AtomicCheckpointIO()],
        default_root_dir=str(run.path),
    )
    trainer.fit(model, datamodule=data)
    return 1e3 * (clock.times[1] - clock.times[0]) / (clock.last - clock.first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer steps and turns")
    parser.add_argument("--every", type=int, default=10, help="steps from one row to the next")
    asked = parser.parse_args()
    num_steps, turns = (250, 4) if asked.quick else (1000, 11)
    torch.set_num_threads(1)
    torch.utils.deterministic.fill_uninitialized_memory = False  # as `mmlight fit` does
    os.environ.setdefault("PL_GLOBAL_SEED", "0")
    quieten()
    found: dict[str, list[float]] = {"bare": [], "lightning": [], "mmlight": []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(turns + 1):
            once = {
                "bare": bare(num_steps),
                "lightning": trained(num_steps, Path(folder), own=False),
                "mmlight": trained(num_steps, Path(folder), every=asked.every),
            }
            if turn:  # the first loads what is loaded once
                for name, value in once.items():
                    found[name].append(value)
    table = Table(title=f"CPU ms a step ({turns} turns of {num_steps} steps)")
    for column in ("", "step", "more than bare", "more than Lightning"):
        table.add_column(column, justify="right" if column else "left")
    figures: dict[str, float] = {}
    for name, values in found.items():
        than_bare, than_lightning = (
            [a - b for a, b in zip(values, found[other], strict=True)]
            for other in ("bare", "lightning")
        )
        figures |= {f"{name}_ms": median(values), f"{name}_overhead_ms": median(than_bare)}
        columns = (values, than_bare, than_lightning)
        table.add_row(name, *(f"{median(x):.3f} [{min(x):.3f}, {max(x):.3f}]" for x in columns))
    Console().print(table)
    del figures["bare_overhead_ms"]
    figures["mmlight_over_lightning_ms"] = median(than_lightning)
    figures["share_of_100_ms"] = figures["mmlight_overhead_ms"] / 100
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
