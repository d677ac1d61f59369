"""Measures how fast a machine does each kind of work."""

import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from math import inf
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlight.costs.tally import Counted, Kind, Tally
from mmlight.errors import UserError, nearest

_BUSY_S = 0.04
_REPEATS = 5
_MOST = 50  # a clock may be coarse, or stand still in a test


@dataclass(frozen=True)
class Rates:
    """How fast a machine works.

    Attributes:
        matmul_flops: FLOP/s of linear layers, forward and backward, in the precision of training.
        conv_flops: FLOP/s of convolutions, forward and backward.
        norm_bytes: bytes/s of normalisation, pooling and their backward passes.
        math_elements: results/s of exponentials and their like (GELU, softmax).
        random_elements: random numbers/s (dropout).
        move_bytes: bytes/s of all else: sums, copies, the optimiser.
        call_s: seconds that an operation costs beside its work, in Python and in torch.
    """

    matmul_flops: float
    conv_flops: float
    norm_bytes: float
    math_elements: float
    random_elements: float
    move_bytes: float
    call_s: float

    def seconds(self, counted: Counted) -> dict[Kind | str, float]:
        """Return the time that counted work takes, by kind, and `calls` for the calls."""
        work = counted.work
        return {
            "matmul": work["matmul"].flops / self.matmul_flops,
            # Maps are laid out anew for each convolution.
            "conv": work["conv"].padded_flops / self.conv_flops
            + work["conv"].num_bytes / self.norm_bytes,
            "norm": work["norm"].num_bytes / self.norm_bytes,
            "math": work["math"].num_elements / self.math_elements,
            "random": work["random"].num_elements / self.random_elements,
            "move": work["move"].num_bytes / self.move_bytes,
            "calls": counted.num_calls * self.call_s,
        }


def between(first: Rates, second: Rates) -> Rates:
    """Return what holds in between: the mean time, as of a machine that others use too."""
    means = {}
    for f in fields(Rates):
        a, b = getattr(first, f.name), getattr(second, f.name)
        means[f.name] = (a + b) / 2 if f.name == "call_s" else 2 / (1 / a + 1 / b)
    return Rates(**means)


def measure_matmul(device: torch.device, *, dtype: torch.dtype) -> float:
    """Return FLOP/s of a large matrix product in `dtype`; no random number is drawn for it."""
    size = 8192 if device.type == "cuda" else 768
    left = torch.full((size, size), 0.5, device=device, dtype=dtype)
    right = torch.full((size, size), 0.25, device=device, dtype=dtype)
    out = torch.empty_like(left)
    return 2 * size**3 / _seconds(lambda: torch.mm(left, right, out=out), device)


def measure_rates(
    device: torch.device, *, dtype: torch.dtype = torch.float32, matmul_flops: float | None = None
) -> Rates:
    """Measure every rate here and now, in about three seconds.

    Each is what `Tally` counts in a small computation over the time that this takes. The
    computations are fixed: nothing is fitted to an experiment.

    Args:
        device: where.
        dtype: of the matrix products; all else is float32.
        matmul_flops: takes the place of the measured one.
    """
    call_s = _measure_calls(device)

    def rate(step: Callable[[], object], kind: Kind, what: str, bytes_s: float = inf) -> float:
        seconds = _seconds(step, device)
        tally = Tally()
        with tally:
            step()
        counted = tally.counted
        work = counted.work[kind]
        left_s = seconds - counted.num_calls * call_s - work.num_bytes / bytes_s
        return float(getattr(work, what)) / max(left_s, 0.2 * seconds)

    # 12 MiB, as activations are; and 36 MiB, which no core finds in its caches, and which glibc
    # takes fresh from the system each time.
    wide = torch.linspace(-3, 3, 8192 * 384, device=device).view(8192, 384)
    learned = wide.clone().requires_grad_()
    added, held = wide.clone(), torch.empty_like(wide)
    large = torch.linspace(-3, 3, 9 * 2**20, device=device)
    other, result = large.clone(), torch.empty_like(large)
    scale = torch.ones(384, device=device, requires_grad=True)
    shift = torch.zeros(384, device=device, requires_grad=True)

    def move() -> None:
        torch.add(large, other, out=result)
        torch.mul(result, large)
        result.copy_(large)

    def normalise() -> None:
        F.layer_norm(learned, (384,), scale, shift).backward(added)

    def activate() -> None:
        F.gelu(learned).backward(added)

    norm_bytes = rate(normalise, "norm", "num_bytes")
    return Rates(
        matmul_flops=matmul_flops or rate(_linears(device, dtype), "matmul", "flops"),
        conv_flops=rate(_convolution(device, dtype), "conv", "flops", norm_bytes),
        norm_bytes=norm_bytes,
        math_elements=rate(activate, "math", "num_elements"),
        random_elements=rate(lambda: held.bernoulli_(0.9), "random", "num_elements"),
        move_bytes=rate(move, "move", "num_bytes"),
        call_s=call_s,
    )


def _linears(device: torch.device, dtype: torch.dtype) -> Callable[[], object]:
    # As in a transformer's block, with results in fresh memory: about three quarters of the rate
    # of one large product in place.
    rows, dim = 512, 512
    weights = [
        torch.full(shape, 0.01, device=device, dtype=dtype, requires_grad=True)
        for shape in ((4 * dim, dim), (dim, 4 * dim))
    ]
    tokens = torch.full((rows, dim), 0.5, device=device, dtype=dtype, requires_grad=True)
    above = torch.full((rows, dim), 0.25, device=device, dtype=dtype)

    def step() -> None:
        F.linear(F.linear(tokens, weights[0]), weights[1]).backward(above)
        for tensor in (tokens, *weights):
            tensor.grad = None

    return step


def _convolution(device: torch.device, dtype: torch.dtype) -> Callable[[], object]:
    weights = [
        torch.full((64, 64, 3, 3), 0.01, device=device, dtype=dtype, requires_grad=True)
        for _ in range(2)
    ]
    maps = torch.full((32, 64, 32, 32), 0.5, device=device, dtype=dtype)

    def step() -> None:
        hidden = F.conv2d(maps, weights[0], padding=1)
        F.conv2d(hidden, weights[1], padding=1).sum().backward()

    return step


def _measure_calls(device: torch.device) -> float:
    small = torch.ones(8, 8, device=device, requires_grad=True)

    def step() -> None:
        x: Tensor = small
        for _ in range(20):
            x = (x @ small).relu().view(8, 8) + small
        x.sum().backward()

    tally = Tally()
    with tally:
        step()
    return _seconds(step, device, busy=False) / tally.counted.num_calls


def clock_of(device: torch.device) -> Callable[[], float]:
    """Return the clock that work on `device` is timed with.

    On one thread of a CPU that is the time the process computed: other programs on the machine do
    not count. Otherwise it is the time of day.
    """
    if device.type == "cpu" and torch.get_num_threads() == 1:
        return time.process_time
    return time.perf_counter


def _seconds(step: Callable[[], object], device: torch.device, *, busy: bool = True) -> float:
    """Return the median time of a step."""
    clock = clock_of(device)

    def run(times: int) -> float:
        _wait(device)
        began = clock()
        for _ in range(times):
            step()
        if busy:
            _wait(device)
        return max(clock() - began, 1e-9)

    run(1)
    times = min(max(1, round(_BUSY_S / run(2) * 2)), _MOST)
    return median(run(times) / times for _ in range(_REPEATS))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# How many operations a second a GPU can be given by one Python process that does not compile.
CALL_S = 6e-6


@dataclass(frozen=True)
class Device:
    """One device of a data sheet.

    Attributes:
        name: as it is said on the command line.
        tflops: dense matrix products, 10^12 FLOP/s by precision.
        memory_gib: of the device.
        memory_gb_s: bandwidth of its memory.
        watts: at full load.
        link_gb_s: to its neighbours in the same machine, each way.
        network_gb_s: to other machines, for each device; what is usual.
    """

    name: str
    tflops: dict[str, float]
    memory_gib: float
    memory_gb_s: float
    watts: float
    link_gb_s: float
    network_gb_s: float = 50.0


# Sources: NVIDIA's data sheets of H200, H100 (SXM), A100 (80 GB SXM), L40S and the Ada
# architecture's white paper (RTX 4090), each without sparsity. float32 is that of the CUDA cores:
# torch takes TF32 only where it is told to. NVLink counts one direction; 400 Gb/s of InfiniBand per
# GPU; L40S and RTX 4090 talk over PCIe 4.
DEVICES = {
    device.name: device
    for device in (
        Device("h200", {"bf16": 989, "fp32": 67}, 141e9 / 2**30, 4800, 700, 450),
        Device("h100", {"bf16": 989, "fp32": 67}, 80e9 / 2**30, 3350, 700, 450),
        Device("a100", {"bf16": 312, "fp32": 19.5}, 80e9 / 2**30, 2039, 400, 300, 25),
        Device("l40s", {"bf16": 362, "fp32": 91.6}, 48e9 / 2**30, 864, 350, 32, 25),
        Device("rtx4090", {"bf16": 165, "fp32": 82.6}, 24e9 / 2**30, 1008, 450, 32, 12.5),
    )
}


def find_device(name: str) -> Device | None:
    """Return a device of the table; None for `cpu`, which is measured instead.

    Raises:
        UserError: no such device.
    """
    if name == "cpu":
        return None
    if name not in DEVICES:
        known = ", ".join(["cpu", *DEVICES])
        raise UserError(f"--device {name}: known are {known}{nearest(name, DEVICES)}")
    return DEVICES[name]
