"""Training speed, and what it is made of."""

import time
from contextlib import ExitStack
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy

from mmlight import comm
from mmlight.costs.meters import EnergyMeter, peak_bytes
from mmlight.costs.rates import measure_matmul
from mmlight.costs.step_parts import PARTS, StepParts, gradient_bytes
from mmlight.costs.tally import Tally
from mmlight.runs.run.summary import SAMPLES_PER_S
from mmlight.trainer.loop import StepCallback, accumulates, is_logged

DATA_WAIT_SHARE = "train/data_wait_share"
FLOP_SHARE = "train/flop_share"
PEAK_MEMORY_MB = "train/peak_memory_mb"
JOULES_PER_SAMPLE = "train/joules_per_sample"


class Throughput(StepCallback):
    """Logs what training reaches, at the trainer's log steps.

    - `train/samples_per_s`, over all ranks.
    - `train/data_wait_share`: the part of the time in which this rank waited for batches.
    - `train/flop_share`: the model's arithmetic over what the device could multiply in that time
      in the precision of training. The first step's FLOPs are counted, the device's rate is
      measured once.
    - `train/peak_memory_mb`: of the GPU's allocator, else of the process.
    - `train/joules_per_sample` of this rank's GPU, where NVIDIA's library (`pynvml`) tells it.
    - `train/data_ms`, `forward_ms`, `loss_ms`, `backward_ms`, `optimiser_ms`, `communication_ms`
      and `other_ms`: this rank's time for each part of the step that is logged.
    - `train/sent_mb/...`: what this rank gave to each kind of collective in that step.

    The clock runs from the end of the first step (so that compilation does not count) and stands
    still during validation. The device is waited for at log steps alone. Between them only samples
    are added up.

    Args:
        counts_flops: False leaves `train/flop_share` out. Compiled and sharded models are not
            counted.
        times_parts: False leaves the parts and what is sent out, as does a profiler of the
            trainer's own.
    """

    def __init__(self, *, counts_flops: bool = True, times_parts: bool = True) -> None:
        self.samples_per_s: float | None = None
        self._counts_flops = counts_flops
        self._since: float | None = None
        self._samples = 0
        self._paused_s = 0.0
        self._validation_began = 0.0
        self._tally: Tally | None = None
        self._flops_per_sample: float | None = None
        self._matmul_flops: float | None = None
        self._waited_s = 0.0
        self._meter: EnergyMeter | None = None
        self._joules: float | None = None
        self._parts = StepParts() if times_parts else None
        self._watching = ExitStack()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take the place of the profiler that does nothing."""
        owner: Any = trainer  # whose class does not declare it
        if self._parts is not None and isinstance(owner.profiler, PassThroughProfiler):
            owner.profiler = self._parts

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin anew."""
        self._since, self._samples, self._paused_s = None, 0, 0.0
        self._flops_per_sample = None
        self._meter = EnergyMeter(trainer.strategy.root_device)
        if getattr(trainer, "profiler", None) is not self._parts:
            self._parts = None
        if self._parts is not None:
            self._parts.watch_task(pl_module)
        # Now, while a GPU's memory is free; a CPU's first step need not wait for it.
        if trainer.strategy.root_device.type == "cuda" and self._counts(trainer, pl_module):
            self._measure(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self._end_of_timing()
        self._validation_began = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the clock go on."""
        self._paused_s += time.perf_counter() - self._validation_began
        if not trainer.sanity_checking:
            self._time_next_step(trainer, step=trainer.global_step)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count the first batch's arithmetic."""
        if self._since is None and self._counts(trainer, pl_module):
            self._tally = Tally()
            self._tally.__enter__()

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Leave nothing behind in the modules."""
        self._stop_counting()
        self._end_of_timing()

    on_exception = on_train_end

    def after_batch(self, trainer: pl.Trainer, task: Any, batch: Any, outputs: Any) -> None:
        """Count the batch (`mmlight.batch.Batch`), and log at log steps."""
        if self._since is None:
            flops = self._stop_counting()
            self._flops_per_sample = flops / batch.size if flops else None
            self._start_clock(trainer, now=time.perf_counter())
            self._end_of_timing()
            self._time_next_step(trainer, step=trainer.global_step)
            return
        self._samples += batch.size
        step = trainer.global_step
        if accumulates(trainer) or not is_logged(trainer, step=step):
            self._time_next_step(trainer, step=step)
            return
        now = time.perf_counter()
        seconds = max(now - self._since - self._paused_s, 1e-9)
        values = self._values(trainer, seconds) | self._part_values(trainer, task)
        self._start_clock(trainer, now=time.perf_counter())
        task.log_with_step(values)
        self._time_next_step(trainer, step=step)

    def _time_next_step(self, trainer: pl.Trainer, *, step: int) -> None:
        """Begin to time parts, from the next batch on, if its step is one that is logged."""
        parts = self._parts
        if parts is None or parts.is_on or not is_logged(trainer, step=step + 1):
            return
        parts.begin(is_cuda=trainer.strategy.root_device.type == "cuda")
        if comm.is_distributed():
            self._watching.enter_context(parts.watch_collectives())

    def _end_of_timing(self) -> None:
        self._watching.close()
        if self._parts is not None:
            self._parts.end()

    def _part_values(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float]:
        parts = self._parts
        self._end_of_timing()
        if parts is None:
            return {}
        batches = parts.steps()  # several where gradients accumulate
        values = {
            f"train/{part}_ms": 1e3 * sum(batch[part] for batch in batches)
            for part in PARTS
            if part != "communication" or comm.is_distributed()
        }
        sent = dict(parts.sent_bytes)
        if gradients := gradient_bytes(pl_module, trainer.strategy):
            sent["gradients"] = gradients
        return values | {f"train/sent_mb/{kind}": count / 1e6 for kind, count in sent.items()}

    def _values(self, trainer: pl.Trainer, seconds: float) -> dict[str, float]:
        self.samples_per_s = self._samples * trainer.world_size / seconds
        device = trainer.strategy.root_device
        values = {SAMPLES_PER_S: self.samples_per_s, PEAK_MEMORY_MB: peak_bytes(device) / 2**20}
        waited_s = _waited_s(trainer)
        if waited_s is not None:
            values[DATA_WAIT_SHARE] = (waited_s - self._waited_s) / seconds
        if self._flops_per_sample:
            reached = self._samples * self._flops_per_sample / seconds
            values[FLOP_SHARE] = reached / self._measure(trainer)
        joules = self._meter.joules() if self._meter is not None else None
        if joules is not None and self._joules is not None:
            values[JOULES_PER_SAMPLE] = (joules - self._joules) / self._samples
        return values

    def _measure(self, trainer: pl.Trainer) -> float:
        if self._matmul_flops is None:
            device, dtype = trainer.strategy.root_device, _dtype(str(trainer.precision))
            self._matmul_flops = measure_matmul(device, dtype=dtype)
        return self._matmul_flops

    def _start_clock(self, trainer: pl.Trainer, *, now: float) -> None:
        self._since, self._samples, self._paused_s = now, 0, 0.0
        self._waited_s = _waited_s(trainer) or 0.0
        self._joules = self._meter.joules() if self._meter is not None else None

    def _counts(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> bool:
        compiled = getattr(pl_module, "compile_mode", "none") != "none"
        sharded = isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy)
        return self._counts_flops and not compiled and not sharded and trainer.is_global_zero

    def _stop_counting(self) -> float:
        if self._tally is None:
            return 0.0
        self._tally.__exit__(None, None, None)
        flops, self._tally = self._tally.counted.flops, None
        return flops


def _waited_s(trainer: pl.Trainer) -> float | None:
    """Return how long the loader has been waited for, if it tells."""
    waited: float | None = getattr(trainer.train_dataloader, "waited_s", None)
    return waited


def _dtype(precision: str) -> torch.dtype:
    return {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision, torch.float32)
