"""Fine-tuning speed and accuracy: mmlight against the Trainer of transformers, one recipe.

Purpose
    MiniLM-L6 on SST-2: accuracy on dev after three epochs, and CPU-seconds of an epoch of training.

Command
    python experiments/bench/finetune_sst2.py            # three seeds: two hours on one core
    python experiments/bench/finetune_sst2.py --quick    # a few steps, times only; under a minute
    python experiments/bench/finetune_sst2.py --sides trainer "mmlight + buckets"    # two of three

    Needs `pip install 'mmlight[bench]'` (the Trainer wants accelerate), the weights (see
    experiments/towers/text_minilm.yaml), and ../shared/data/sst2 beside the checkout.

Hardware
    Any CPU, no GPU; as many threads as OMP_NUM_THREADS says. Where other programs use the machine,
    compare CPU-seconds and ratios.

What is measured
    trainer   transformers.Trainer with its defaults for speed (fused AdamW, pinned recipe below), a
              data set tokenised beforehand, DataCollatorWithPadding.
    mmlight   `mmlight fit -c experiments/finetune/sst2_minilm.yaml`, in this process, with
              data.bucket_batches null. It gives the Trainer its own order of samples: both see the
              same batches with the same padding.
    mmlight + buckets
              the experiment as it stands: batches of samples of similar length.

    All have one recipe, read from the experiment: the same checkpoint, mean pooling, dropout and
    one linear layer, float32, batch, epochs, AdamW, linear schedule, clipping. They draw other
    initial weights of the head and other dropout. An epoch's time is from before its first batch
    until after its last step, without evaluation; the first step of a run is left out. The
    three run in turn for each seed, in another order each time. A ratio compares the
    medians; in brackets are the extremes over epochs (over runs with --quick).
"""

import argparse
import contextlib
import io
import json
import os
import random
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import transformers
from rich.console import Console
from rich.table import Table
from torch import nn

from mmlight import compose
from mmlight.commands import train
from mmlight.data.order.cursor import Order
from mmlight.runs.run.folder import Run as RunFolder

EXPERIMENT = "experiments/finetune/sst2_minilm.yaml"
SIDES = ("trainer", "mmlight", "mmlight + buckets")
LEFT_OUT = 1


@dataclass
class Clock:
    """Times the epochs of one run.

    Attributes:
        epochs: CPU-seconds, seconds and steps of each epoch, the very first step left out.
    """

    epochs: list[tuple[float, float, int]] = field(default_factory=list)
    _steps: int = 0
    _since: tuple[float, float, int] = (0.0, 0.0, 0)

    def begin(self) -> None:
        self._since = (time.process_time(), time.monotonic(), self._steps)

    def step(self) -> None:
        self._steps += 1
        if self._steps == LEFT_OUT:
            self.begin()

    def end(self) -> None:
        cpu, wall, steps = self._since
        self.epochs.append(
            (time.process_time() - cpu, time.monotonic() - wall, self._steps - steps)
        )


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        epochs: as the clock's.
        accuracy: on dev after the last epoch, 0 to 1; None with few steps.
    """

    epochs: list[tuple[float, float, int]]
    accuracy: float | None


class LightningClock(pl.Callback):
    """Tells the clock of the run in hand what Lightning does."""

    clock = Clock()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.clock.begin()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.clock.step()
        if trainer.is_last_batch or trainer.global_step == trainer.max_steps:
            self.clock.end()


class TrainerClock(transformers.TrainerCallback):
    """Tells a clock what the Trainer does."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self.clock.begin()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.clock.step()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        self.clock.end()


class MeanPooled(nn.Module):
    """What the experiment trains, for the Trainer: mean of the tokens, dropout, a linear layer."""

    def __init__(self, checkpoint: str, *, dropout: float, num_classes: int) -> None:
        super().__init__()
        self.bert = transformers.AutoModel.from_pretrained(
            checkpoint, dtype=torch.float32, add_pooling_layer=False
        )
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(self.bert.config.hidden_size, num_classes)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, input_ids: Any, attention_mask: Any, labels: Any = None) -> dict[str, Any]:
        hidden_BLD = self.bert(input_ids=input_ids, attention_mask=attention_mask)[0]
        mask_BL1 = attention_mask[..., None].to(hidden_BLD.dtype)
        pooled_BD = (hidden_BLD * mask_BL1).sum(1) / mask_BL1.sum(1)
        logits_BK = self.linear(self.dropout(pooled_BD))
        loss = None if labels is None else nn.functional.cross_entropy(logits_BK, labels)
        return {"loss": loss, "logits": logits_BK}


class SameOrder(torch.utils.data.Sampler[int]):
    """The order in which mmlight reads, epoch by epoch."""

    def __init__(self, num_samples: int, *, batch: int, seed: int) -> None:
        self._order = Order([num_samples], global_batch=batch, seed=seed)
        self._epoch = -1

    def __len__(self) -> int:
        return self._order.steps_per_epoch * self._order.global_batch

    def __iter__(self) -> Iterator[int]:
        self._epoch += 1
        return iter(self._order.steps(self._epoch, 0, self._order.steps_per_epoch).ravel().tolist())


class OrderedTrainer(transformers.Trainer):
    """The Trainer, with a given order of samples."""

    order: SameOrder

    def _get_train_sampler(self, train_dataset: Any = None) -> SameOrder:
        return self.order


def read_recipe() -> dict[str, Any]:
    """Return the experiment with all that it extends, merged."""

    def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
        both = below | above
        for key in below.keys() & above.keys():
            if isinstance(below[key], dict) and isinstance(above[key], dict):
                both[key] = merge(below[key], above[key])
        return both

    recipe: dict[str, Any] = {}
    for layer in compose.expand(Path(EXPERIMENT)):
        recipe = merge(recipe, layer.values)
    return recipe


def read_samples(folder: str, tokenizer: Any, *, max_tokens: int) -> list[dict[str, Any]]:
    samples = []
    for path in sorted(Path(folder).glob("*.tar")):
        members: dict[str, dict[str, str]] = {}
        with tarfile.open(path) as file:
            for member in file:
                key, _, extension = member.name.partition(".")
                content = file.extractfile(member)
                assert content is not None
                members.setdefault(key, {})[extension] = content.read().decode()
        for sample in members.values():
            text = sample["txt"].strip("\r\n")
            tokens = tokenizer(text, truncation=True, max_length=max_tokens)
            samples.append(
                {
                    "input_ids": tokens["input_ids"],
                    "attention_mask": tokens["attention_mask"],
                    "labels": int(sample["cls"]),
                }
            )
    return samples


def run_trainer(recipe: dict[str, Any], *, seed: int, max_steps: int, folder: Path) -> Run:
    """Train with the Trainer."""
    model, data = (recipe[key]["init_args"] for key in ("model", "data"))
    optimizer, schedule = model["optimizer"], model["schedule"]
    assert schedule["kind"] == "linear"
    assert model["tuning"]["backbone_lr"] == optimizer["lr"], "the Trainer has one rate"
    checkpoint = model["towers"]["text"]["encoder"]["init_args"]["pretrained"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    train, dev = (
        read_samples(data[split]["shards"], tokenizer, max_tokens=data["text"]["max_tokens"])
        for split in ("train", "val")
    )
    transformers.set_seed(seed)
    clock = Clock()
    trainer = OrderedTrainer(
        model=MeanPooled(checkpoint, dropout=model["head"]["dropout"], num_classes=2),
        args=transformers.TrainingArguments(
            output_dir=str(folder),
            seed=seed,
            use_cpu=True,
            per_device_train_batch_size=data["global_batch_size"],
            per_device_eval_batch_size=data["eval_batch_size"],
            dataloader_drop_last=True,
            num_train_epochs=recipe["trainer"]["max_epochs"],
            max_steps=max_steps,
            learning_rate=optimizer["lr"],
            adam_beta1=optimizer["betas"][0],
            adam_beta2=optimizer["betas"][1],
            adam_epsilon=optimizer["eps"],
            weight_decay=optimizer["weight_decay"],
            lr_scheduler_type="linear",
            warmup_steps=schedule["warmup_steps"],
            max_grad_norm=recipe["trainer"]["gradient_clip_val"],
            logging_steps=recipe["trainer"]["log_every_n_steps"],
            save_strategy="no",
            eval_strategy="no" if max_steps > 0 else "epoch",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=train,
        eval_dataset=dev,
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
        compute_metrics=lambda found: {
            "accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())
        },
        callbacks=[TrainerClock(clock)],
    )
    trainer.order = SameOrder(len(train), batch=data["global_batch_size"], seed=seed)
    trainer.train()
    history = [e["eval_accuracy"] for e in trainer.state.log_history if "eval_accuracy" in e]
    return Run(clock.epochs, history[-1] if history else None)


def run_mmlight(*, buckets: bool, seed: int, max_steps: int, folder: Path) -> Run:
    """Train with mmlight's command."""
    LightningClock.clock = Clock()
    for name in ("MMLIGHT_RUN_ID", "MMLIGHT_RUN_OWNER"):  # those of the last run in this process
        os.environ.pop(name, None)
    arguments = ["fit", "-c", EXPERIMENT, "--run.root", str(folder), "--run.name", "bench"]
    arguments += ["--seed_everything", str(seed), "--data.seed", str(seed)]
    arguments += ["--trainer.callbacks+", f"{Path(__file__).stem}.LightningClock"]
    if not buckets:
        arguments += ["--data.bucket_batches", "null"]
    if max_steps > 0:
        arguments += ["--trainer.max_steps", str(max_steps), "--trainer.limit_val_batches", "0"]
    assert train.main(arguments) == 0
    (run,) = (folder / "bench").iterdir()
    history = [row["val/accuracy"] for row in RunFolder(run).rows() if "val/accuracy" in row]
    return Run(LightningClock.clock.epochs, history[-1] if history else None)


def run(side: str, recipe: dict[str, Any], *, seed: int, max_steps: int) -> Run:
    """Train once, quietly."""
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
        folder = Path(name)
        if side == "trainer":
            return run_trainer(recipe, seed=seed, max_steps=max_steps, folder=folder)
        buckets = side.endswith("buckets")
        return run_mmlight(buckets=buckets, seed=seed, max_steps=max_steps, folder=folder)


def summarise(values: list[float], form: str = ".1f") -> str:
    low, high = min(values), max(values)
    return f"{statistics.median(values):{form}} ({low:{form}} to {high:{form}})"


def report(
    results: dict[str, list[Run]], *, steps_per_epoch: int, console: Console
) -> dict[str, Any]:
    """Print the table; return the figures."""
    table = Table("", "dev accuracy, %", "CPU-s / epoch", "s / epoch", "CPU time / Trainer's")
    figures: dict[str, Any] = {}
    medians: dict[str, float] = {}
    for side in results:
        epochs = [epoch for run in results[side] for epoch in run.epochs if epoch[2]]
        cpu = [steps_per_epoch * cpu / steps for cpu, _, steps in epochs]
        wall = [steps_per_epoch * wall / steps for _, wall, steps in epochs]
        accuracies = [100 * r.accuracy for r in results[side] if r.accuracy is not None]
        medians[side] = statistics.median(cpu)
        key = side.replace(" + ", "_")
        figures[f"{key}_cpu_s_per_epoch"] = round(medians[side], 2)
        figures[f"{key}_s_per_epoch"] = round(statistics.median(wall), 2)
        ratio = medians[side] / medians["trainer"]
        figures[f"{key}_cpu_ratio"] = round(ratio, 3)
        if accuracies:
            figures[f"{key}_accuracy"] = round(statistics.mean(accuracies), 2)
            figures[f"{key}_accuracy_all"] = [round(value, 2) for value in accuracies]
        told = f"{statistics.mean(accuracies):.2f}" if accuracies else ""
        told += f" ({', '.join(f'{value:.1f}' for value in accuracies)})" if accuracies else ""
        table.add_row(side, told, summarise(cpu), summarise(wall), f"{ratio:.2f}")
    console.print(table)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Fine-tune MiniLM on SST-2 with mmlight and with the transformers Trainer."
    )
    parser.add_argument("--quick", action="store_true", help="a few steps; under a minute")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each (3; quick 2)")
    parser.add_argument("--sides", nargs="+", default=SIDES, choices=SIDES, help="which (all)")
    arguments = parser.parse_args()
    if "trainer" not in arguments.sides:
        parser.error("--sides: ratios are to the trainer: name it too")
    # Lightning is told the callback by its module's name, which must not be a second copy of it.
    sys.modules[Path(__file__).stem] = sys.modules["__main__"]
    os.chdir(Path(__file__).parents[2])
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    started = time.monotonic()
    recipe = read_recipe()
    max_steps = 8 if arguments.quick else -1
    num_seeds = 2 if arguments.quick else arguments.seeds
    console = Console()
    results: dict[str, list[Run]] = {side: [] for side in arguments.sides}
    for seed in range(num_seeds):
        order = list(results)
        random.Random(seed).shuffle(order)
        for side in order:
            results[side].append(run(side, recipe, seed=seed, max_steps=max_steps))
            last = results[side][-1]
            seconds = ", ".join(f"{cpu:.1f} in {steps} steps" for cpu, _, steps in last.epochs)
            told = "" if last.accuracy is None else f"; accuracy {100 * last.accuracy:.2f} %"
            console.print(f"seed {seed}, {side}: CPU-seconds {seconds}{told}", soft_wrap=True)
    figures = report(results, steps_per_epoch=6920 // 32, console=console)
    figures |= {
        "seeds": num_seeds,
        "steps": max_steps if arguments.quick else recipe["trainer"]["max_epochs"] * 216,
        "threads": torch.get_num_threads(),
        "seconds": round(time.monotonic() - started, 1),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
