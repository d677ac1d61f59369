"""Writes a graph as ONNX and as a `torch.export` program, and compares each with the task."""

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmlight.errors import UserError
from mmlight.interop.scan_gru import replace_recurrent
from mmlight.tasks.graph import AXES, Graph

INSTALL = "pip install 'mmlight[export]'"
# Largest difference relative to the largest output; float32 sums in another order stay below.
TOLERANCE = 1e-3

Inputs = tuple[Tensor, ...]
Known = tuple[Inputs, Inputs]  # inputs in the order of a graph's, and what the task makes of them
Run = Callable[[Inputs], list[Tensor]]


@dataclass(frozen=True)
class Traced:
    """A graph as a program of torch's operators.

    Attributes:
        program: what `torch.export.export` returned.
        axes: for each input, the name of each axis or its fixed size.
        limits: smallest and largest size of each named axis; None where there is no limit.
    """

    program: Any
    axes: dict[str, list[str | int]]
    limits: dict[str, tuple[int, int | None]]

    def takes(self, names: Sequence[str], inputs: Inputs) -> bool:
        """Say whether inputs are of sizes that the program was made for."""
        for name, tensor in zip(names, inputs, strict=True):
            for axis, size in zip(self.axes[name], tensor.shape, strict=True):
                low, high = (axis, axis) if isinstance(axis, int) else self.limits[axis]
                if size < low or (high is not None and size > high):
                    return False
        return True


@dataclass(frozen=True)
class Difference:
    """How a file's outputs differ from the task's.

    Attributes:
        largest: largest absolute difference over all outputs and inputs.
        relative: the same, in parts of the largest absolute value of its output.
        num_inputs: on how many inputs they were compared.
    """

    largest: float
    relative: float
    num_inputs: int


@dataclass(frozen=True)
class Written:
    """What became of one graph in one format.

    Attributes:
        file: its name.
        inputs: for each input, the name of each axis or its fixed size.
        outputs: names of the outputs.
        limits: smallest and largest size of each named axis.
        difference: how it differs from PyTorch; None where it was not written.
        problem: why it was not written; empty where it was.
    """

    file: str
    inputs: dict[str, list[str | int]] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    limits: dict[str, tuple[int, int | None]] = field(default_factory=dict)
    difference: Difference | None = None
    problem: str = ""

    def __str__(self) -> str:
        found = self.difference
        if found is None:
            return f"{self.file}: not written: {self.problem}"
        return (
            f"{self.file}: differs from PyTorch by at most {found.largest:.1e} "
            f"({found.relative:.1e} of the largest value) on {found.num_inputs} batches"
        )


def trace(graph: Graph, example: Inputs) -> Traced:
    """Trace a graph, with as many named axes as its operators allow.

    Args:
        graph: recurrent layers in it become scans.
        example: inputs of sizes that differ from one another.

    Raises:
        UserError: torch cannot trace it; the message is the first line of why.
    """
    dynamic = tuple(
        {axis: torch.export.Dim.AUTO for axis in range(len(AXES[name]))} for name in graph.inputs
    )
    replace_recurrent(graph)
    try:
        with _quiet(), torch.no_grad():
            program = torch.export.export(graph, example, dynamic_shapes=(dynamic,), strict=False)
    except Exception as error:  # torch raises many kinds for what it cannot trace
        raise UserError(f"torch.export cannot trace it: {_first_line(error)}") from error
    axes: dict[str, list[str | int]] = {}
    limits: dict[str, tuple[int, int | None]] = {}
    for name, place in zip(graph.inputs, _placeholders(program), strict=True):
        axes[name] = []
        for number, size in enumerate(place.meta["val"].shape):
            # A size that tracing found to be the only one may still be a symbol's.
            if isinstance(size, int) or size.node.expr.is_number:
                axes[name].append(int(size))
                continue
            axes[name].append(axis := AXES[name][number])
            bounds = program.range_constraints[size.node.expr]
            high = None if bounds.upper > 2**40 else int(bounds.upper)
            # Torch traces with sizes of 2 and more, and lets 1 pass when the program runs.
            low = int(bounds.lower)
            limits[axis] = (1 if low <= 2 else low, high)
    return Traced(program, axes, limits)


def write_torch(traced: Traced, path: Path) -> Run:
    """Write a ``.pt2`` file and return what runs it, read back from the disk."""
    partial = path.with_name(f".{path.stem}.partial.pt2")
    with _quiet():
        torch.export.save(traced.program, partial)
        partial.replace(path)
        module = torch.export.load(path).module()

    def run(inputs: Inputs) -> list[Tensor]:
        with torch.no_grad():
            return list(module(*inputs))

    return run


def write_onnx(graph: Graph, traced: Traced, path: Path) -> Run:
    """Write an ``.onnx`` file and return what runs it in onnxruntime, read from the disk.

    Raises:
        UserError: a package is missing, or an operator has no counterpart in ONNX.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  (torch's exporter needs it)
    except ImportError as error:
        raise UserError(
            f"--format onnx needs onnx, onnxruntime and onnxscript: {INSTALL}"
        ) from error
    try:
        with _quiet():
            program = torch.onnx.export(
                traced.program,
                dynamo=True,
                verbose=False,
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
            )
    except Exception as error:  # the exporter raises many kinds for what it cannot translate
        raise UserError(f"torch.onnx cannot translate it: {_first_line(error)}") from error
    assert program is not None
    _name_axes(program.model, traced)
    for old in (path, path.with_name(f"{path.name}.data")):
        old.unlink(missing_ok=True)
    with _quiet():
        program.save(str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    taken = {entry.name for entry in session.get_inputs()}

    def run(inputs: Inputs) -> list[Tensor]:
        # An input that nothing depends on (a mask of a causal model) is no input of the file.
        fed = {
            name: tensor.numpy()
            for name, tensor in zip(graph.inputs, inputs, strict=True)
            if name in taken
        }
        return [torch.from_numpy(output) for output in session.run(None, fed)]

    return run


def know(graph: Graph, inputs: Sequence[Inputs]) -> list[Known]:
    """Return what the task makes of inputs, before anything is exported."""
    with torch.no_grad():
        return [(given, graph(*given)) for given in inputs]


def compare(graph: Graph, traced: Traced, run: Run, known: Sequence[Known]) -> Difference:
    """Return how outputs differ from the task's, on those inputs that the program takes.

    Raises:
        UserError: they differ by more than rounding explains, or in shape.
    """
    largest = relative = 0.0
    count = 0
    for given, wanted in known:
        if not traced.takes(graph.inputs, given):
            continue
        got_all = run(given)
        if graph.unordered:
            got_all = _matched(wanted, got_all)
        shapes = [tuple(tensor.shape) for tensor in given]
        for name, want, got in zip(graph.outputs, wanted, got_all, strict=True):
            if want.shape != got.shape:
                raise UserError(
                    f"{name} has shape {tuple(got.shape)}, not {tuple(want.shape)}, on inputs of "
                    f"shapes {shapes}"
                )
            difference = float((want.double() - got.double()).abs().max()) if want.numel() else 0.0
            scale = max(float(want.double().abs().max()), 1e-6) if want.numel() else 1.0
            if not difference <= TOLERANCE * scale:
                raise UserError(
                    f"{name} differs from PyTorch by {difference:.2g} (values up to {scale:.2g}) "
                    f"on inputs of shapes {shapes}"
                )
            largest, relative = max(largest, difference), max(relative, difference / scale)
        count += 1
    if not count:
        raise UserError("no input of a size that the program takes; nothing was compared")
    return Difference(largest, relative, count)


def _matched(wanted: Sequence[Tensor], got: Sequence[Tensor]) -> list[Tensor]:
    """Put the rows (B, Q, ...) of `got` into the order of those of `wanted` that they equal."""

    def joined(outputs: Sequence[Tensor]) -> Tensor:
        # Each output in parts of its own size, so that none outweighs the others.
        sizes = [max(float(want.abs().max()), 1e-6) for want in wanted]
        return torch.cat([o.float() / s for o, s in zip(outputs, sizes, strict=True)], dim=-1)

    nearest_BQ = torch.cdist(joined(wanted), joined(got)).argmin(2)
    return [
        output.gather(1, nearest_BQ[..., None].expand(-1, -1, output.shape[2])) for output in got
    ]


def _placeholders(program: Any) -> list[Any]:
    names = set(program.graph_signature.user_inputs)
    return [n for n in program.graph.nodes if n.op == "placeholder" and n.name in names]


def _name_axes(model: Any, traced: Traced) -> None:
    """Give the axes of an ONNX graph's inputs and outputs names for people."""
    import onnx_ir

    names: dict[str, str] = {}
    for value in model.graph.inputs:
        for axis, size in zip(traced.axes.get(value.name, ()), value.shape or (), strict=False):
            if isinstance(axis, str):
                names[str(size.value)] = axis
    if not names:
        return
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, names))})\b")

    def named(size: Any) -> Any:
        # An axis without a name must not get one that others have.
        if isinstance(size, int) or size.value is None:
            return size
        return pattern.sub(lambda match: names[match[1]], str(size.value))

    values = [*model.graph.inputs, *model.graph.outputs]
    for value in (*values, *(output for node in model.graph for output in node.outputs)):
        if value.shape is not None:
            value.shape = onnx_ir.Shape(map(named, value.shape))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep advice to developers of torch away from users."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
