"""Writes a graph as ONNX and as a `torch.export` program, and compares each with the task."""

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
                if isinstance(axis, int):
                    if axis != size:
                        return False
                    continue
                low, high = self.limits[axis]
                if size < low or (high is not None and size > high):
                    return False
        return True


@dataclass(frozen=True)
class Known:
    """Inputs, and what the task makes of them.

    Attributes:
        inputs: in the order of the graph's inputs.
        outputs: in the order of its outputs.
    """

    inputs: Inputs
    outputs: Inputs


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
            if isinstance(size, int):
                axes[name].append(size)
                continue
            axis = AXES[name][number]
            axes[name].append(axis)
            bounds = program.range_constraints[size.node.expr]
            high = None if bounds.upper > 2**40 else int(bounds.upper)
            # Torch traces with sizes of 2 and more, and lets 1 pass when the program runs.
            low = int(bounds.lower)
            limits[axis] = (1 if low <= 2 else low, high)
    return Traced(program, axes, limits)


def write_torch(traced: Traced, path: Path) -> Callable[[Inputs], list[Tensor]]:
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


def write_onnx(graph: Graph, traced: Traced, path: Path) -> Callable[[Inputs], list[Tensor]]:
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
        return [Known(given, graph(*given)) for given in inputs]


def compare(
    graph: Graph, traced: Traced, run: Callable[[Inputs], list[Tensor]], known: Sequence[Known]
) -> Difference:
    """Return how outputs differ from the task's, on those inputs that the program takes.

    Raises:
        UserError: they differ by more than rounding explains, or in shape.
    """
    largest = relative = 0.0
    count = 0
    for sample in known:
        given, wanted = sample.inputs, list(sample.outputs)
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


def _matched(wanted: list[Tensor], got: list[Tensor]) -> list[Tensor]:
    """Put the rows (B, Q, ...) of `got` into the order of those of `wanted` that they equal."""

    def joined(outputs: list[Tensor]) -> Tensor:
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
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, names))})\b") if names else None
    values = [*model.graph.inputs, *model.graph.outputs]
    values += [output for node in model.graph for output in node.outputs]
    for value in values:
        if pattern is None or value.shape is None:
            continue
        value.shape = onnx_ir.Shape(
            [
                # An axis without a name must not get one that others have.
                size
                if isinstance(size, int) or size.value is None
                else pattern.sub(lambda match: names[match[1]], str(size.value))
                for size in value.shape
            ]
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep advice to developers of torch away from users."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
