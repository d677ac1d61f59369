"""Foretells what a training costs, from counted steps and a machine's rates."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mmlight.costs.counting import ModelSize, StepCount
from mmlight.costs.rates import CALL_S, Device, Rates
from mmlight.costs.tally import Counted

# Bytes that an optimiser step moves for each trained parameter, in float32, beside its state, which
# is read and written: the parameter is read and written, its gradient read; clipping reads the
# gradients twice and writes them; an average reads the weights and itself and writes itself.
_STEP_BYTES, _CLIP_BYTES, _EMA_BYTES = 12, 12, 12
# What Lightning's trainer adds to a step (experiments/bench/trainer_overhead.py).
_TRAINER_S = 0.7e-3
# On a CPU, freed memory stays with the process: glibc keeps blocks below 32 MiB for later ones,
# which do not fit into all of the gaps. It was 1.4 and 1.7 times the activations of two small
# ResNets;
# with MALLOC_MMAP_THRESHOLD_=65536 it was 0.07.
_FREE_HEAP = 1.5
# Parts of the data sheets' memory and network bandwidths that are reached in practice.
_BANDWIDTH = 0.8
# Their products run at the same rate on each device of the table.
_HALF = ("bf16-mixed", "16-mixed")
# About the part of a step that is the backward pass, during which gradients are sent.
_BACKWARD = 2 / 3


@dataclass(frozen=True)
class TrainingSettings:
    """What of an experiment its cost depends on, beside model and batch.

    Attributes:
        num_devices: GPUs, or processes on CPUs.
        strategy: whether parameters are copied (ddp) or shared out (fsdp).
        precision: the trainer's.
        clips: whether gradients are clipped.
        has_ema: whether weights are averaged.
        accumulate: batches for each optimiser step.
        num_steps: batches in all, or None.
        data_s: time to load a batch in one process.
        num_workers: loading processes; 0 loads between the steps.
        is_cpu: whether tensors lie in the memory of the process.
        base_bytes: memory before there is a model: Python, torch, CUDA's context.
    """

    num_devices: int
    strategy: str
    precision: str
    clips: bool
    has_ema: bool
    accumulate: int
    num_steps: int | None
    data_s: float
    num_workers: int
    is_cpu: bool
    base_bytes: float


@dataclass(frozen=True)
class Foretold:
    """What training will cost.

    Attributes:
        flops_per_sample: forward and backward.
        total_flops: of all steps and devices; None where the number of steps is not known.
        step_s: time of a step.
        part_s: what it consists of.
        hours: of the training.
        device_hours: the same, for all devices together.
        kwh: energy of the devices at their data sheets' power.
        memory_ddp: bytes for each device, by use.
        memory_fsdp: the same where parameters are shared out.
        sent_bytes: of each device and step.
        communication_share: the part of a step that waits for what is sent.
        num_parameters: of the model.
        num_trained: those that are trained.
        notes: how it was found.
    """

    flops_per_sample: float
    total_flops: float | None
    step_s: float
    part_s: dict[str, float]
    hours: float | None
    device_hours: float | None
    kwh: float | None
    memory_ddp: dict[str, float]
    memory_fsdp: dict[str, float]
    sent_bytes: float
    communication_share: float
    num_parameters: int
    num_trained: int
    notes: list[str] = field(default_factory=list)


def foretell(
    step: StepCount,
    size: ModelSize,
    settings: TrainingSettings,
    *,
    rates: Rates | None = None,
    device: Device | None = None,
    efficiency: float = 0.6,
) -> Foretold:
    """Return what training costs on a measured machine, or on a device of the table.

    On a measured machine, each kind of work takes as long as it does there. On a device of the
    table, products and convolutions run at `efficiency` of the data sheet's rate and all else at
    80 % of its memory bandwidth, unless Python gives operations more slowly than they are done.

    Args:
        step: what a step on one device does.
        size: of the model.
        settings: of the training.
        rates: of the measured machine.
        device: of the table; one of the two is given.
        efficiency: share of the data sheet's rate that large products reach.
    """
    if rates is not None:
        part_s = rates.seconds(step.counted)
        part_s["optimiser"] = _optimiser_s(size, settings, rates)
        part_s["trainer"] = _TRAINER_S
    else:
        assert device is not None
        part_s = _device_seconds(step.counted, size, settings, device=device, share=efficiency)
    compute_s = sum(part_s.values())
    if settings.num_workers:
        part_s["waiting for data"] = max(settings.data_s / settings.num_workers - compute_s, 0.0)
    else:
        part_s["data"] = settings.data_s
    sent = sent_bytes(size, settings)
    sent_s = 0.0
    if device is not None and settings.num_devices > 1:
        link = device.link_gb_s if settings.num_devices <= 8 else device.network_gb_s
        sent_s = sent / (link * 1e9 * _BANDWIDTH)
    # Sent while the backward pass computes; only what is left over is waited for.
    waited_s = max(sent_s - _BACKWARD * compute_s, 0.0)
    part_s["communication"] = waited_s
    step_s = sum(part_s.values())
    num_steps, num_devices = settings.num_steps, settings.num_devices
    total_flops = hours = device_hours = kwh = None
    if num_steps is not None:
        total_flops = step.counted.flops * num_devices * num_steps
        hours = num_steps * step_s / 3600
        device_hours = hours * num_devices
        kwh = None if device is None else device_hours * device.watts / 1000
    needed = {share: memory(step, size, settings, share=share) for share in (1, num_devices)}
    notes = [step.note] if step.note else []
    if device is not None:
        notes += _does_not_fit(needed, settings, device)
    return Foretold(
        flops_per_sample=step.counted.flops / step.num_samples,
        total_flops=total_flops,
        step_s=step_s,
        part_s={str(name): seconds for name, seconds in part_s.items()},
        hours=hours,
        device_hours=device_hours,
        kwh=kwh,
        memory_ddp=needed[1],
        memory_fsdp=needed[num_devices],
        sent_bytes=sent,
        communication_share=waited_s / step_s,
        num_parameters=size.num_parameters,
        num_trained=size.num_trained,
        notes=notes,
    )


def _does_not_fit(
    needed: Mapping[int, Mapping[str, float]], settings: TrainingSettings, device: Device
) -> list[str]:
    """Say that the strategy needs more memory than the device has; nothing where it fits."""
    share = settings.num_devices if settings.strategy == "fsdp" else 1
    gib = {shared: sum(parts.values()) / 2**30 for shared, parts in needed.items()}
    if gib[share] <= device.memory_gib:
        return []
    fsdp = gib[settings.num_devices]
    remedy = "a smaller batch for each device, or model.grad_cache where the loss is contrastive"
    if share == 1 and fsdp <= device.memory_gib:
        remedy = f"--strategy fsdp, which needs {fsdp:,.1f} GiB"
    return [
        f"does not fit: {gib[share]:,.1f} GiB are needed with {settings.strategy}, a {device.name} "
        f"has {device.memory_gib:,.1f} GiB; try {remedy}"
    ]


def memory(
    step: StepCount, size: ModelSize, settings: TrainingSettings, *, share: int
) -> dict[str, float]:
    """Return the bytes that a device holds at once, by use.

    Args:
        step: a step on one device.
        size: of the model.
        settings: of the training.
        share: over how many devices parameters, gradients and the optimiser's state are shared
            out; 1 is DDP. Two of the largest blocks are then whole at once: the one at work and
            the one that comes.
    """
    parts = {
        "base": settings.base_bytes,
        "parameters": size.state_bytes / share,
        "gradients": 4.0 * size.num_trained / share,
        "optimiser": size.optimiser_bytes / share,
        "activations and loss": step.counted.peak_bytes,
        # The one at work and the next.
        "data": 2 * step.batch_bytes,
    }
    if settings.is_cpu:
        parts["free heap"] = _FREE_HEAP * step.counted.peak_bytes
    if settings.has_ema:
        parts["averaged weights"] = 4.0 * size.num_trained / share
    if share > 1:
        width = 2 if settings.precision in _HALF else 4
        whole = size.largest_block or size.num_parameters
        parts["gathered parameters"] = 2.0 * width * whole
    elif settings.num_devices > 1:
        parts["buckets"] = 4.0 * size.num_trained  # DDP's copies of the gradients
    return parts


def sent_bytes(size: ModelSize, settings: TrainingSettings) -> float:
    """Return what each device sends in a step for parameters and gradients, by rings.

    DDP sums gradients in float32, 2 (W - 1) / W of their bytes. FSDP gathers parameters in forward
    and in backward, and sums and scatters gradients: (W - 1) / W each, in bfloat16 where that is
    the precision. Features that a contrastive loss gathers are small beside them and left out.
    """
    others = (settings.num_devices - 1) / settings.num_devices
    if settings.strategy == "fsdp":
        width = 2 if settings.precision in _HALF else 4
        return others * width * (2 * size.num_parameters + size.num_trained)
    return 2 * others * 4 * size.num_trained


def _optimiser_bytes(size: ModelSize, settings: TrainingSettings) -> float:
    per_parameter = _STEP_BYTES + _CLIP_BYTES * settings.clips + _EMA_BYTES * settings.has_ema
    moved = per_parameter * size.num_trained + 2 * size.optimiser_bytes
    return moved / settings.accumulate


def _optimiser_s(size: ModelSize, settings: TrainingSettings, rates: Rates) -> float:
    # On a CPU, lists of tensors are worked on one by one.
    calls = (1 + 3 * settings.clips + settings.has_ema) * size.num_tensors / settings.accumulate
    return _optimiser_bytes(size, settings) / rates.move_bytes + calls * rates.call_s


def _device_seconds(
    counted: Counted, size: ModelSize, settings: TrainingSettings, *, device: Device, share: float
) -> dict[str, float]:
    precision = "bf16" if settings.precision in _HALF else "fp32"
    bandwidth = device.memory_gb_s * 1e9 * _BANDWIDTH
    products = counted.work["matmul"].flops + counted.work["conv"].flops
    moved = sum(
        part.num_bytes for kind, part in counted.work.items() if kind not in ("matmul", "conv")
    )
    shared = settings.num_devices if settings.strategy == "fsdp" else 1
    parts = {
        "products": products / (device.tflops[precision] * 1e12 * share),
        "memory traffic": moved / bandwidth,
        "optimiser": _optimiser_bytes(size, settings) / shared / bandwidth,
    }
    parts["launching"] = max(counted.num_calls * CALL_S - sum(parts.values()), 0.0)
    return parts
