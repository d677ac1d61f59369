"""Contrastive losses: mmlight's tiled ones against plain PyTorch and open_clip.

Purpose
    Time and memory of forward + backward of the loss alone, from features that are not yet of unit
    length to their gradients, D = 512, float32, and the bytes of features between ranks.

Command
    pip install --no-deps --target FOLDER open_clip_torch==3.3.0    # once, outside the project
    python experiments/bench/contrastive_loss.py --open-clip FOLDER            # about ten minutes
    python experiments/bench/contrastive_loss.py --open-clip FOLDER --quick    # under a minute

    Only FOLDER/open_clip/loss.py is read. Without --open-clip (or OPEN_CLIP in the environment)
    its rows are left out.

Hardware
    Linux (reads /proc), any CPU with two cores, 8 GB of memory, no GPU.

What is measured
    Time is CPU time, one thread per process, so that other programs disturb it little. Everything
    runs in a fresh process after a warm-up at 256 samples; sides take turns. Peak is the growth of
    the resident set over what it was before the call, features excluded, gradients included.

    naive       F.normalize, one matrix of logits, cross entropy of it and of its transpose
    tiled       mmlight.objectives.clip.Clip and .siglip.SigLip as they are by default
    chunked     SigLIP in row chunks of 1,024 as open_clip's main branch does (softplus of all
                logits minus the diagonal, over SigLipLoss.get_logits); 3.3.0 has no chunks
    open_clip   ClipLoss(local_loss=True, gather_with_grad=True) on W gloo processes; time is summed
                over ranks. Bytes are those a rank sends: (W - 1) shares for a gather and for the
                way back. `ring` is the tiled loss with ranks: ring.

    Figures, with date, hardware and versions: experiments/bench/results.md.

    In a ratio ours is above the other. Given are medians and, in brackets, the extremes.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mmlight import comm
from mmlight.batch import Batch, Images, Text
from mmlight.costs.meters import peak_resident_bytes, resident_bytes
from mmlight.modality import Modality
from mmlight.objectives.clip import Clip
from mmlight.objectives.exchange import Ranks
from mmlight.objectives.pair_objective import PairObjective
from mmlight.objectives.siglip import SigLip

DIM = 512
CHUNK = 1024
WARM_UP = 256
PARTS = ("clip", "siglip", "ranks")
MODALITIES: tuple[Modality, ...] = ("image", "text")
Features = dict[Modality, Tensor]
Step = Callable[[Features], Any]


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        calls: calls in a process, by number of samples, for CLIP.
        processes: processes of each side and size.
        siglip_sizes: numbers of samples for SigLIP.
        worlds: numbers of ranks.
        share: samples of each rank.
        rank_calls: calls of each side on ranks.
    """

    calls: dict[int, int]
    processes: int
    siglip_sizes: tuple[int, ...]
    worlds: tuple[int, ...]
    share: int
    rank_calls: int


FULL = Plan(
    calls={16384: 1, 4096: 3, 1024: 9},
    processes=2,
    siglip_sizes=(16384,),
    worlds=(2, 4),
    share=2048,
    rank_calls=3,
)
QUICK = Plan(
    calls={1024: 3}, processes=1, siglip_sizes=(1024,), worlds=(2,), share=512, rank_calls=2
)


def make_features(size: int, *, seed: int = 0) -> Features:
    """Return random features that want gradients."""
    generator = torch.Generator().manual_seed(seed)
    return {m: torch.randn(size, DIM, generator=generator).requires_grad_() for m in MODALITIES}


def make_batch(size: int) -> Batch:
    """Return a batch of masks; the losses look at nothing else."""
    there_B = torch.ones(size, dtype=torch.bool)
    nothing_B = torch.zeros(size, dtype=torch.int64)
    return Batch(
        index_B=torch.arange(size),
        keys=[""] * size,
        epoch=0,
        step=0,
        valid_B=there_B,
        image=Images(torch.zeros(size, 3, 1, 1, dtype=torch.uint8), there_B),
        text=Text(nothing_B[:, None], there_B[:, None], there_B, torch.arange(size), nothing_B),
    )


def load_open_clip(folder: str) -> ModuleType:
    """Return open_clip's losses without importing the package, which needs an older webdataset."""
    spec = importlib.util.spec_from_file_location(
        "open_clip_loss", Path(folder) / "open_clip" / "loss.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tiled(cls: type[PairObjective], *, ranks: Ranks = "gather") -> Step:
    """Return mmlight's objective."""
    objective = cls(ranks=ranks)  # type: ignore[call-arg]
    objective.build(MODALITIES)

    def step(features: Features) -> None:
        batch = make_batch(len(features["image"]))
        objective(features.__getitem__, batch).value.backward()

    return step


def unit(features: Features) -> tuple[Tensor, Tensor]:
    """Return features of unit length, as other projects make them."""
    image_BD, text_BD = (F.normalize(features[m], dim=-1) for m in MODALITIES)
    return image_BD, text_BD


def naive(features: Features) -> None:
    """Take a step with whole matrices."""
    log_scale = torch.tensor(2.659, requires_grad=True)
    image_BD, text_BD = unit(features)
    logits_BB = log_scale.exp() * image_BD @ text_BD.T
    own_B = torch.arange(len(logits_BB))
    (F.cross_entropy(logits_BB, own_B) + F.cross_entropy(logits_BB.T, own_B)).div(2).backward()


def open_clip_clip(losses: ModuleType) -> Step:
    """Return open_clip's loss of local rows, with gathered gradients."""
    loss = losses.ClipLoss(
        local_loss=True, gather_with_grad=True, rank=comm.rank(), world_size=comm.world_size()
    )

    def step(features: Features) -> None:
        log_scale = torch.tensor(2.659, requires_grad=True)
        loss(*unit(features), log_scale.exp()).backward()

    return step


def open_clip_chunked(losses: ModuleType) -> Step:
    """Return open_clip's SigLIP with its logits in chunks of rows."""
    loss = losses.SigLipLoss()

    def step(features: Features) -> None:
        log_scale = torch.tensor(2.303, requires_grad=True)
        bias = torch.tensor(-10.0, requires_grad=True)
        image_BD, text_BD = unit(features)
        total = torch.zeros(())
        for start in range(0, len(image_BD), CHUNK):
            rows_RD = image_BD[start : start + CHUNK]
            logits_RB = loss.get_logits(rows_RD, text_BD, log_scale.exp(), bias)
            total = total + F.softplus(logits_RB).sum() - logits_RB.diagonal(start).sum()
        (total / len(image_BD)).backward()

    return step


def make_step(name: str, open_clip: str | None) -> Step:
    """Return a side by its name."""
    if name == "naive":
        return naive
    if name == "tiled":
        return tiled(Clip)
    if name == "siglip tiled":
        return tiled(SigLip)
    if name == "ring":
        return tiled(Clip, ranks="ring")
    assert open_clip is not None
    losses = load_open_clip(open_clip)
    return open_clip_chunked(losses) if name == "siglip chunked" else open_clip_clip(losses)


def measure_alone(name: str, size: int, calls: int, open_clip: str | None) -> dict[str, Any]:
    """Return CPU-seconds of each call and the peak of the first; in a process of its own."""
    step = make_step(name, open_clip)
    step(make_features(WARM_UP))
    features = make_features(size)
    peak_mb, seconds = 0.0, []
    for call in range(calls):
        for x_BD in features.values():
            x_BD.grad = None
        if call == 0:
            Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
            before_mb = resident_bytes() / 1e6
        started = time.process_time()
        step(features)
        seconds.append(time.process_time() - started)
        if call == 0:
            peak_mb = peak_resident_bytes() / 1e6 - before_mb
    return {"seconds": seconds, "peak_mb": peak_mb}


@contextmanager
def count_sent() -> Iterator[dict[str, int]]:
    """Count the bytes of features that this rank sends, whoever asks for it.

    Ours goes by all-gathers, reduce-scatters and, around a ring, messages; open_clip's by an
    all-gather, and scatters on the way back under gloo.
    """
    sent = {"bytes": 0}

    def counted(name: str, num_bytes: Callable[..., int]) -> Callable[..., Any]:
        collective = getattr(dist, name)

        def call(*given: Any, **settings: Any) -> Any:
            sent["bytes"] += num_bytes(*given)
            return collective(*given, **settings)

        return call

    def of_tensors(a: Tensor, b: Tensor) -> int:
        return abs(a.nbytes - b.nbytes) if a.is_floating_point() else 0  # masks are whole numbers

    def of_messages(messages: list[dist.P2POp]) -> int:
        own = [m.tensor for m in messages if m.op is dist.isend]
        return sum(x.nbytes for x in own if x.is_floating_point())

    def of_parts(x: Tensor, parts: Any = None, *_: Any) -> int:
        return (len(parts) - 1) * x.nbytes if parts is not None else 0

    by_name: dict[str, Callable[..., int]] = {
        "all_gather_into_tensor": of_tensors,
        "reduce_scatter_tensor": of_tensors,
        "batch_isend_irecv": of_messages,
        "all_gather": lambda out, x: (len(out) - 1) * x.nbytes,
        "scatter": of_parts,
    }
    with ExitStack() as stack:
        for name, num_bytes in by_name.items():
            stack.enter_context(patch.object(dist, name, counted(name, num_bytes)))
        yield sent


def measure_rank(
    rank: int, world: int, folder: str, share: int, calls: int, open_clip: str | None
) -> None:
    """Take turns between the sides on one of several ranks; rank 0 writes what all used."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world
    )
    names = ["tiled", "ring"] + (["open_clip"] if open_clip else [])
    steps = {name: make_step(name, open_clip) for name in names}
    for step in steps.values():
        step(make_features(WARM_UP, seed=rank))
    features = make_features(share, seed=rank)
    used: dict[str, list[float]] = {name: [] for name in names}
    sent: dict[str, int] = {}
    for _ in range(calls):
        for name, step in steps.items():
            for x_BD in features.values():
                x_BD.grad = None
            comm.barrier()
            started = time.process_time()
            with count_sent() as found:
                step(features)
            used[name].append(time.process_time() - started)
            sent[name] = found["bytes"]
    everyone = comm.gather_objects(used)
    if rank == 0:
        sums = {n: [sum(u[n][i] for u in everyone) for i in range(calls)] for n in names}
        Path(folder, "result").write_text(json.dumps({"seconds": sums, "bytes": sent}))
    comm.barrier()
    dist.destroy_process_group()


def child(*arguments: object, open_clip: str | None) -> dict[str, Any]:
    """Run this script in a fresh process and return what it found."""
    command = [sys.executable, __file__, "--child", json.dumps(arguments)]
    command += ["--open-clip", open_clip] if open_clip else []
    done = subprocess.run(
        command,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def run_child(arguments: list[Any], open_clip: str | None) -> dict[str, Any]:
    """Do what `child` asked for."""
    if arguments[0] != "ranks":
        return measure_alone(*arguments, open_clip)
    _, world, share, calls = arguments
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(
            measure_rank,
            args=(world, folder, share, calls, open_clip),
            nprocs=world,
            start_method="spawn",
        )
        return dict(json.loads(Path(folder, "result").read_text()))


def spread(values: list[float]) -> str:
    """Return the median and, in brackets, the extremes."""
    return f"{statistics.median(values):.3g} [{min(values):.3g}-{max(values):.3g}]"


class Report:
    """Collects rows for the table and figures for the last line."""

    def __init__(self) -> None:
        self.table = Table("", "", "other", "mmlight", "ratio")
        self.figures: dict[str, Any] = {}

    def add(
        self, key: str, what: str, theirs: list[float], ours: list[float], *, digits: int = 3
    ) -> None:
        """Add a row; ratios are of medians."""
        ratio = statistics.median(ours) / statistics.median(theirs)
        self.table.add_row(key, what, spread(theirs), spread(ours), f"{ratio:.{digits}f}")
        print(f"{key}: {what} {spread(theirs)} {spread(ours)} {ratio:.3f}", file=sys.stderr)
        name = f"{key} {what}".replace(",", "").replace(" ", "_").replace("=", "")
        self.figures |= {
            f"{name}_ratio": round(ratio, 4),
            f"{name}_other": [round(v, 4) for v in theirs],
            f"{name}_mmlight": [round(v, 4) for v in ours],
        }


def compare(
    report: Report,
    key: str,
    pair: tuple[str, str],
    size: int,
    calls: int,
    processes: int,
    open_clip: str | None,
) -> None:
    """Measure two sides in turns, each in fresh processes."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in pair}
    for _ in range(processes):
        for name in pair:
            found[name].append(child(name, size, calls, open_clip=open_clip))
    # The first call of a process pays for its memory, so it counts only where it is the only one.
    times, peaks = (
        [
            [f for r in found[n] for f in (r["seconds"][1:] or r["seconds"])]
            if what == "time"
            else [r["peak_mb"] for r in found[n]]
            for n in pair
        ]
        for what in ("time", "peak")
    )
    report.add(key, "CPU-seconds", *times)
    report.add(key, "peak MB", *peaks)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare contrastive losses.")
    parser.add_argument("--quick", action="store_true", help="small batches; under a minute")
    parser.add_argument(
        "--open-clip", default=os.environ.get("OPEN_CLIP"), help="folder that holds open_clip/"
    )
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, help="parts of the table (all)"
    )
    parser.add_argument("--processes", type=int, help="of each side and size (2; quick 1)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        torch.set_num_threads(1)
        print(json.dumps(run_child(json.loads(arguments.child), arguments.open_clip)))
        return
    plan = QUICK if arguments.quick else FULL
    processes = arguments.processes or plan.processes
    open_clip = arguments.open_clip
    parts = [part for part in arguments.only if open_clip or part == "clip"]
    if open_clip and not Path(open_clip, "open_clip", "loss.py").exists():
        parser.error(f"--open-clip: {open_clip} holds no open_clip/loss.py")
    console, report = Console(), Report()
    started = time.monotonic()
    for size, calls in plan.calls.items() if "clip" in parts else ():
        key = f"CLIP, B={size}, naive"
        compare(report, key, ("naive", "tiled"), size, calls, processes, open_clip)
    for size in plan.siglip_sizes if "siglip" in parts else ():
        key, names = f"SigLIP, B={size}, chunked", ("siglip chunked", "siglip tiled")
        compare(report, key, names, size, plan.calls[size], processes, open_clip)
    for world in plan.worlds if "ranks" in parts else ():
        found = child("ranks", world, plan.share, plan.rank_calls, open_clip=open_clip)
        for ours in ("tiled", "ring"):
            key = f"CLIP, W={world}, B={plan.share} each, open_clip, {ours}"
            seconds, sent = found["seconds"], found["bytes"]
            report.add(key, "CPU-seconds", seconds["open_clip"], seconds[ours])
            mb = [[sent[name] / 1e6] for name in ("open_clip", ours)]
            report.add(key, "feature MB", *mb)
    console.print(report.table)
    report.figures["seconds"] = round(time.monotonic() - started, 1)
    print(json.dumps(report.figures))


if __name__ == "__main__":
    main()
