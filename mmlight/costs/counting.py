"""Counts what one training step does, without doing it."""

import functools
import gc
import warnings
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from mmlight.batch import Batch
from mmlight.costs.tally import Counted, Tally
from mmlight.errors import UserError
from mmlight.optim.adamw import AdamWSettings
from mmlight.tasks.task import Task
from mmlight.trainer.internals import FakeTensorMode, tree_leaves

_FEW = 2


@dataclass
class ModelSize:
    """What a model consists of.

    Attributes:
        num_parameters: all of them.
        num_trained: those that are trained.
        num_tensors: how many tensors these are.
        state_bytes: parameters and buffers.
        largest_block: parameters of the largest repeated block.
        optimiser_bytes: what the optimiser keeps of the trained ones.
    """

    num_parameters: int
    num_trained: int
    num_tensors: int
    state_bytes: int
    largest_block: int
    optimiser_bytes: float


@dataclass
class StepCount:
    """What a forward and a backward pass do.

    Attributes:
        counted: the work of both passes; its peak is beside parameters, gradients and batch.
        activation_bytes: what the forward pass leaves for the backward pass.
        batch_bytes: the batch itself.
        num_samples: of the batch.
        note: how it was counted where not on shapes alone; empty otherwise.
    """

    counted: Counted
    activation_bytes: float
    batch_bytes: float
    num_samples: int
    note: str = ""


class ShapeCounter:
    """A task without its numbers: built on the meta device, and run on shapes.

    Every operation is asked only for the shape of what it would return. Where the model asks for a
    value that nobody computed (are there labels in this batch?), the answer is the usual one. Where
    it needs the values themselves (matching boxes, transcripts), a few samples are computed for
    real, and counted times as many as the batch has.

    Args:
        task: a task that is not built yet; it is of no use afterwards.
        precision: the trainer's; with `bf16-mixed`, operations run in bfloat16.

    Attributes:
        size: of the model.
        note: what could not be built on the meta device.
    """

    def __init__(self, task: Task, *, precision: str) -> None:
        self.precision = precision
        self.note = ""
        self._is_real = self._is_fake = False
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        # The data module is shared: it holds a trainer, files and workers.
        data = {id(task.data): task.data}
        self._unbuilt = deepcopy(task, {**data})
        try:
            with torch.device("meta"), warnings.catch_warnings():
                # Weights that are loaded there have no effect, as torch says for each tensor.
                warnings.filterwarnings("ignore", "for .*: copying from a non-meta parameter")
                self.task = _built(task)
        except (RuntimeError, NotImplementedError, ValueError):
            # Weights from a file, an initialisation that looks at its numbers, or a user's
            # mistake, which comes again.
            self.task = _built(deepcopy(self._unbuilt, {**data}))
            self.note = "built on the CPU: its weights come from a file"
        self._step = 0
        # All that is ever trained has a gradient and a state in the end.
        _begin(self.task, max(self.starts))
        self.size = _size_of(self.task)
        _begin(self.task, 0)

    @property
    def starts(self) -> list[int]:
        """The steps at which more of the model is trained; 0 alone where that never changes."""
        assert self.task.trained is not None
        return self.task.trained.starts or [0]

    def begin(self, step: int) -> None:
        """Count from now on what is trained in that step."""
        self._step = step
        _begin(self.task, step)

    def count(self, batch: Batch) -> StepCount:
        """Count a training step with `batch`, whose shapes alone matter where possible."""
        if not self._is_real:
            if batch.text is not None:
                batch.text.note_lengths(batch.text.lengths())
            try:
                with self._fake:
                    if not self._is_fake:
                        self.task.to_empty(device="cpu")
                        self._is_fake = True
                    return self._count(batch)
            except UserError:
                raise
            except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
                self._become_real(error)
            finally:
                _forget_shapes()
        few = first_samples(batch, _FEW)
        one, factor = self._count(few), batch.size / few.size
        counted = Counted(num_calls=one.counted.num_calls)
        for kind, part in one.counted.work.items():
            counted.work[kind].add(part, times=factor)
        counted.peak_bytes = one.counted.peak_bytes * factor
        held_bytes = one.activation_bytes * factor
        return StepCount(counted, held_bytes, bytes_of(batch), batch.size, self.note)

    def _count(self, batch: Batch) -> StepCount:
        task, tally = self.task, Tally()
        is_mixed = self.precision in ("bf16-mixed", "16-mixed")
        tally.ignore([*task.parameters(), *task.buffers(), *batch.tensors()])
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_mixed), tally:
            loss: Any = task.training_step(batch, 0)
            activation_bytes, forward_bytes = tally.counted.held_bytes, tally.counted.peak_bytes
        with tally:
            loss.backward()
        counted = tally.counted
        # The gradients are told apart: they stay through the next forward pass, and a strategy may
        # share them out.
        grads = sum(p.grad.nbytes for p in task.parameters() if p.grad is not None)
        task.zero_grad()
        counted.peak_bytes = max(counted.peak_bytes - grads, forward_bytes)
        return StepCount(counted, activation_bytes, bytes_of(batch), batch.size, self.note)

    def _become_real(self, error: Exception) -> None:
        self._is_real = True
        self.task = _built(self._unbuilt)
        _begin(self.task, self._step)
        why = " ".join(f"{type(error).__name__}: {error}".split())
        self.note = f"counted on {_FEW} samples, computed for real: the loss needs values ({why})"


def _built(task: Task) -> Task:
    task.log_gated = lambda values: None  # type: ignore[method-assign]
    task.configure_model()
    _begin(task, 0)
    return task


def _begin(task: Task, step: int) -> None:
    assert task.trained is not None
    task.trained.begin(step)
    task.train()


def _forget_shapes() -> None:
    """Empty the models' caches, where tensors without numbers would wait for a real step."""
    for thing in gc.get_objects():
        if type(thing) is functools._lru_cache_wrapper:  # asking some for more would wake them
            module = getattr(thing, "__module__", None) or ""
            if module.partition(".")[0] in ("mmlight", "timm", "transformers"):
                thing.cache_clear()


def mean_count(counts: Sequence[StepCount], *, weights: Sequence[float] = ()) -> StepCount:
    """Return the mean step of several; memory is that of the largest.

    Args:
        counts: of each.
        weights: how often each occurs; equally often where none are given.
    """
    total = Counted()
    often = list(weights) or [1.0] * len(counts)
    for one, weight in zip(counts, often, strict=True):
        total.num_calls += one.counted.num_calls * weight / sum(often)
        for kind, part in one.counted.work.items():
            total.work[kind].add(part, times=weight / sum(often))
    total.peak_bytes = max(one.counted.peak_bytes for one in counts)
    return StepCount(
        total,
        max(one.activation_bytes for one in counts),
        max(one.batch_bytes for one in counts),
        counts[0].num_samples,
        counts[0].note,
    )


def first_samples(batch: Batch, count: int) -> Batch:
    """Return a batch of the first samples, for data with one caption per sample."""
    return replace(
        batch.rows(0, count),
        keys=batch.keys[:count],
        captions=batch.captions[:count],
        fields={name: values[:count] for name, values in batch.fields.items()},
        bad=(),
    )


def bytes_of(batch: Batch) -> float:
    """Return the bytes of a batch's tensors."""
    return float(sum(tensor.nbytes for tensor in batch.tensors()))


def _size_of(task: Task) -> ModelSize:
    parameters = list(task.parameters())
    trained = [p for p in parameters if p.requires_grad]
    blocks = [
        sum(p.numel() for module in block.modules for p in module.parameters())
        for name in task.tower_settings.given()
        for block in task.tower(name).encoder.blocks()
        if block.repeated
    ]
    return ModelSize(
        num_parameters=sum(p.numel() for p in parameters),
        num_trained=sum(p.numel() for p in trained),
        num_tensors=len(trained),
        state_bytes=sum(t.nbytes for t in (*parameters, *task.buffers())),
        largest_block=max(blocks, default=0),
        optimiser_bytes=_optimiser_bytes(task.optimizer_settings, trained),
    )


def _optimiser_bytes(settings: AdamWSettings, trained: Sequence[Tensor]) -> float:
    """Return the bytes of an optimiser's state after its first step, taken on shapes alone."""
    adamw = 8.0 * sum(p.numel() for p in trained)  # two means
    if settings.class_path is None:
        return adamw
    try:
        with FakeTensorMode():
            parameters = [nn.Parameter(torch.empty(p.shape)) for p in trained]
            groups: list[dict[str, Any]] = [{"params": parameters, "weight_decay": 0.0}]
            optimiser = settings.build(groups)
            for parameter in parameters:
                parameter.grad = torch.empty(parameter.shape)
            optimiser.step()
            kept = tree_leaves([dict(state) for state in optimiser.state.values()])
            return float(sum(leaf.nbytes for leaf in kept if isinstance(leaf, Tensor)))
    except (RuntimeError, NotImplementedError, TypeError):  # it looks at the gradients' values
        return adamw
