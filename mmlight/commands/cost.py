"""``mmlight cost``: what the training of an experiment will cost, before it runs."""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import torch

from mmlight.batch import Batch
from mmlight.costs.batches import blank_batch
from mmlight.costs.counting import ShapeCounter, StepCount, mean_count
from mmlight.costs.foretell import Foretold, TrainingSettings, foretell
from mmlight.costs.meters import resident_bytes
from mmlight.costs.rates import DEVICES, Rates, between, find_device, measure_rates
from mmlight.data.dataset import Rank, Refusal
from mmlight.data.module import ShardDataModule
from mmlight.data.order.cursor import default_lanes
from mmlight.errors import UserError
from mmlight.experiment.build import Experiment, assemble
from mmlight.files import plain
from mmlight.runs.show.grid import Column, Grid
from mmlight.tasks.task import Task
from mmlight.terminal import say

# Shapes differ between batches where texts do: so many are looked at, spread over an epoch.
_NUM_BATCHES = 6
_CUDA_CONTEXT_BYTES = 0.5 * 2**30


@dataclass
class CostOptions:
    """What is asked.

    Attributes:
        device: `cpu`, which is measured, or a name of the table of devices.
        num_devices: how many.
        strategy: `ddp` or `fsdp`; None takes the experiment's, or ddp.
        matmul_tflops: the device's rate of matrix products, in place of the known one.
        efficiency: share of a data sheet's rate that large products reach.
        samples: training samples, where the shards are not here.
        json: whether to end with a line of JSON.
        is_blank: whether batches are made up from the settings, wherever the data is.
    """

    device: str = "cpu"
    num_devices: int = 1
    strategy: str | None = None
    matmul_tflops: float | None = None
    efficiency: float = 0.6
    samples: int | None = None
    json: bool = False
    is_blank: bool = False


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight cost``.

    Raises:
        UserError: settings out of range, or anything `mmlight fit` refuses.
    """
    parser = argparse.ArgumentParser(
        prog="mmlight cost",
        description="Say what the training of an experiment will cost: arithmetic, time, energy, "
        "memory with DDP and with FSDP, communication. Nothing is trained: the model is built and "
        "run without numbers. Takes what `mmlight fit` takes.",
        allow_abbrev=False,
    )
    add_options(parser)
    parser.add_argument("--json", action="store_true", help="end with a line of JSON")
    options, rest = parser.parse_known_args(list(argv), CostOptions())
    checked(options)
    experiment = assemble("fit", rest)
    found = foretell_experiment(experiment, experiment.task, options=options)
    show(found, options, name=experiment.name)
    say(*found.notes)
    if options.json:
        say(json.dumps(plain(asdict(found) | {"options": asdict(options)})))
    return 0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what is asked about devices; see `CostOptions`."""
    add = parser.add_argument
    add("--device", help=f"{', '.join(['cpu (measured here)', *DEVICES])}; default cpu")
    add("--devices", dest="num_devices", type=int, help="how many (default 1)")
    add("--strategy", choices=("ddp", "fsdp"), help="default: the experiment's, or ddp")
    add("--matmul-tflops", type=float, help="matrix products, TFLOP/s, if known better")
    text = "share of a data sheet's TFLOP/s that matrix products reach (default 0.6, what large "
    add("--efficiency", type=float, help=f"{text}ones do in bfloat16)")
    add("--samples", type=int, help="training samples, where the shards are not on this machine")


def checked(options: CostOptions) -> None:
    """Raise UserError where a setting is out of range."""
    if options.num_devices < 1:
        raise UserError(f"--devices {options.num_devices}: must be 1 or more")
    if not 0 < options.efficiency <= 1:
        raise UserError(f"--efficiency {options.efficiency}: must be above 0, and 1 at most")
    if options.matmul_tflops is not None and options.matmul_tflops <= 0:
        raise UserError(f"--matmul-tflops {options.matmul_tflops}: must be above 0")
    find_device(options.device)


def foretell_experiment(
    experiment: Experiment,
    task: Task,
    *,
    options: CostOptions,
    base_bytes: float | None = None,
    rates_before: Rates | None = None,
) -> Foretold:
    """Return what an experiment costs.

    Args:
        experiment: whose data and settings count.
        task: its model, not yet built; it is of no use afterwards.
        options: what is asked.
        base_bytes: memory of a process without a model; None takes this process's of now.
        rates_before: what was measured before a training that is to be compared.
    """
    data, trainer = experiment.data, experiment.settings["trainer"]
    device = find_device(options.device)
    base = resident_bytes() if base_bytes is None else base_bytes
    precision = str(trainer["precision"] or "32-true")
    accumulate = int(trainer["accumulate_grad_batches"])
    task.data = data
    data.reads = (*task.tower_settings.given(), *task.targets)
    counter = ShapeCounter(task, precision=precision)
    seen = _batches(data, options, fields=_example_fields(task, data))
    steps_per_epoch, notes = seen.steps_per_epoch, seen.notes
    if options.samples is not None:
        steps_per_epoch = max(options.samples // data.global_batch_size, 1)
    num_steps = _num_steps(trainer, steps_per_epoch, accumulate)
    if num_steps is None:
        notes.append("how many samples there are is not known here: give --samples")
    step, changes = _mean_step(counter, seen.batches, num_steps=num_steps, accumulate=accumulate)
    notes += changes
    settings = TrainingSettings(
        num_devices=options.num_devices,
        strategy=options.strategy or _strategy(trainer),
        precision=precision,
        clips=bool(trainer["gradient_clip_val"]),
        has_ema=experiment.settings["ema"] is not None,
        accumulate=accumulate,
        num_steps=num_steps,
        data_s=seen.load_s,
        num_workers=data.num_workers if device is None else max(data.num_workers, 1),
        is_cpu=device is None,
        base_bytes=base if device is None else _CUDA_CONTEXT_BYTES,
    )
    matmul = None if options.matmul_tflops is None else options.matmul_tflops * 1e12
    if device is None:
        dtype = torch.bfloat16 if precision == "bf16-mixed" else torch.float32
        rates = measure_rates(torch.device("cpu"), dtype=dtype, matmul_flops=matmul)
        if rates_before is not None:
            rates = between(rates_before, rates)
        found = foretell(step, counter.size, settings, rates=rates)
    else:
        if matmul is not None:
            known = dict.fromkeys(device.tflops, matmul / 1e12 / options.efficiency)
            device = replace(device, tflops=known)
        found = foretell(step, counter.size, settings, device=device, efficiency=options.efficiency)
        if seen.load_s:
            notes.append(
                f"data is loaded in {data.num_workers} processes for each device, each as fast as "
                "this machine's"
            )
    found.notes.extend(notes)
    return found


def _mean_step(
    counter: ShapeCounter, batches: list[Batch], *, num_steps: int | None, accumulate: int
) -> tuple[StepCount, list[str]]:
    """Return the mean batch of the whole training, in which more and more may be trained."""
    starts = [start * accumulate for start in counter.starts]
    end = num_steps if num_steps is not None else starts[-1] + 1
    stages = [(a, b) for a, b in pairwise([*starts, max(end, starts[-1])]) if a < min(b, end)]
    if num_steps is None:  # only the last stage's share is not known: it is taken for all
        stages = stages[-1:]
    counts, changes = [], []
    for begin, _ in stages:
        counter.begin(begin // accumulate)
        counts.append(mean_count([counter.count(batch) for batch in batches]))
    weights = [float(min(stop, end) - begin) for begin, stop in stages]
    if len(stages) > 1:
        parts = [
            f"{one.counted.flops / one.num_samples / 1e9:,.3f} from step {begin // accumulate:,}"
            for one, (begin, _) in zip(counts, stages, strict=True)
        ]
        listed = ", ".join(parts)
        changes.append(f"what is trained changes: GFLOP a sample {listed}; means are given")
    return mean_count(counts, weights=weights), changes


def _example_fields(task: Task, data: ShardDataModule) -> dict[str, Any]:
    return task.example_fields(data.text.most_tokens if data.text is not None else 0)


@dataclass(frozen=True)
class _Seen:
    batches: list[Batch]
    load_s: float
    steps_per_epoch: int | None
    notes: list[str]


def _batches(data: ShardDataModule, options: CostOptions, *, fields: Mapping[str, Any]) -> _Seen:
    """Return batches of the experiment where its shards are here, else blank ones."""
    share, rest = divmod(data.global_batch_size, options.num_devices)
    if rest:
        raise UserError(
            f"data.global_batch_size {data.global_batch_size} cannot be divided by --devices "
            f"{options.num_devices}"
        )
    notes = []
    if (data.num_lanes or default_lanes(data.global_batch_size)) % options.num_devices:
        data.num_lanes = options.num_devices
        notes.append(f"a run on so many devices needs --data.num_lanes {options.num_devices}")
    if options.is_blank or data.mode == "stream":
        return _Seen([blank_batch(data, share, fields=fields)], 0.0, None, notes)
    try:
        data.prepare_data()
        data.setup("fit")
    except UserError as error:
        blank = blank_batch(data, share, fields=fields)
        return _Seen([blank], 0.0, None, [*notes, f"no time for loading: {error}"])
    batches = data.train_batches(Rank(0, options.num_devices))
    per_epoch = batches.order.steps_per_epoch
    chosen = sorted({per_epoch * i // _NUM_BATCHES for i in range(_NUM_BATCHES)})
    found: list[Batch] = []
    times = []
    # One thread decodes, whatever else the machine does meanwhile.
    for number in [chosen[0], *chosen]:  # the first opens files
        began = time.process_time()
        batch = batches[number]
        times.append(time.process_time() - began)
        if isinstance(batch, Refusal):
            raise UserError(batch.message)
        found.append(batch)
    return _Seen(found[1:], sum(times[1:]) / len(chosen), per_epoch, notes)


def _num_steps(trainer: Any, steps_per_epoch: int | None, accumulate: int) -> int | None:
    limits = []
    if trainer["max_steps"] not in (None, -1):
        limits.append(trainer["max_steps"] * accumulate)
    epochs = trainer["max_epochs"]
    if epochs is None and not limits:
        epochs = 1000  # Lightning's own default
    if epochs not in (None, -1) and steps_per_epoch is not None:
        limits.append(epochs * steps_per_epoch)
    return int(min(limits)) if limits else None


def _strategy(trainer: Any) -> str:
    said = str(trainer["strategy"]).lower()
    return "fsdp" if "fsdp" in said or "modelparallel" in said else "ddp"


def show(found: Foretold, options: CostOptions, *, name: str) -> None:
    """Print what was foretold."""
    what = "measured here" if options.device == "cpu" else "by its data sheet"
    has_several = options.num_devices > 1
    rows = [
        ("parameters", f"{found.num_parameters:,}"),
        ("  of which trained", f"{found.num_trained:,}"),
    ]
    rows += [("GFLOP a sample, forward and backward", f"{found.flops_per_sample / 1e9:,.3f}")]
    if found.total_flops is not None and found.hours is not None:
        rows += [
            ("FLOP in all", f"{found.total_flops:.3g}"),
            ("hours", f"{found.hours:,.2f}"),
            ("device-hours", f"{found.device_hours:,.2f}"),
        ]
    if found.kwh is not None:
        rows.append(("kWh of the devices", f"{found.kwh:,.1f}"))
    rows.append(("ms a step", f"{1e3 * found.step_s:,.2f}"))
    rows += [(f"  {part}", f"{1e3 * s:,.2f}") for part, s in found.part_s.items()]
    if has_several:
        rows += [
            ("MB sent a step and device", f"{found.sent_bytes / 1e6:,.1f}"),
            ("share of waiting for it", f"{found.communication_share:.1%}"),
        ]
    say(f"{name} on {options.num_devices} x {options.device} ({what})")
    Grid((Column(""), Column("foretold", align="right")), tuple(rows)).print()
    by_strategy = {"DDP" if has_several else "one device": found.memory_ddp}
    if has_several:
        by_strategy["FSDP"] = found.memory_fsdp
    used = dict.fromkeys([*found.memory_ddp, *found.memory_fsdp])
    memory = {part: [of.get(part, 0.0) for of in by_strategy.values()] for part in used}
    memory["in all"] = [sum(of.values()) for of in by_strategy.values()]
    shown = tuple((n, *(f"{size / 2**20:,.1f}" for size in sizes)) for n, sizes in memory.items())
    columns = (Column(""), *(Column(name, align="right") for name in by_strategy))
    say("", "memory of each device, MiB")
    Grid(columns, shown).print()
