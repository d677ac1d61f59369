"""Times the parts of training steps: data, forward, loss, backward, optimiser, communication."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, wraps
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from mmlight import comm

Part = Literal["data", "forward", "loss", "backward", "optimiser", "communication", "other"]
PARTS: tuple[Part, ...] = get_args(Part)
_STEP = "run_training_batch"
_NOTHING = nullcontext()
# What an action of Lightning's is called, or ends with, and whose time it is.
_OWNERS: tuple[tuple[str, Part], ...] = (
    ("_next", "data"),
    (".batch_to_device", "data"),
    (".on_before_batch_transfer", "data"),
    (".on_after_batch_transfer", "data"),
    (".training_step", "forward"),
    (".backward", "backward"),
    (".optimizer_step", "optimiser"),
    (".optimizer_zero_grad", "optimiser"),
    (".configure_gradient_clipping", "optimiser"),
)


@cache
def _owner(action: str) -> Part:
    return next((part for end, part in _OWNERS if action.endswith(end)), "other")


class StepParts(Profiler):
    """A profiler for Lightning's trainer that adds up each part's own time, step by step.

    On a GPU the times are those of its stream, from events that are read after the last step: no
    step waits for the device. Elsewhere they are the host's.

    Attributes:
        is_on: whether it counts now.
        sent_bytes: what this rank gave to collectives that Python called, by kind.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_on = False
        self.sent_bytes: dict[str, float] = {}
        self._is_cuda = False
        self._watched: list[tuple[nn.Module, Part]] = []
        self._hooks: list[RemovableHandle] = []
        self._stack: list[Part] = ["other"]
        # When each stretch of time ended, and whose it was; None ends a step.
        self._marks: list[tuple[Any, Part | None]] = []

    def begin(self, *, is_cuda: bool) -> None:
        """Forget what was, and count steps from now on."""
        self.end()
        self._is_cuda, self.is_on = is_cuda, True
        for module, part in self._watched:
            self._watch(module, part)
        self._stack, self._marks, self.sent_bytes = ["other"], [], {}
        self._mark(None)

    def end(self) -> None:
        """Count no more."""
        self.is_on = False
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    @override
    def start(self, action_name: str) -> None:
        """Begin an action, within the one that runs."""
        if self.is_on:
            self._push(_owner(action_name))

    @override
    def stop(self, action_name: str) -> None:
        """End an action."""
        if self.is_on:
            self._pop()
            if action_name == _STEP:
                self._mark(None)

    @override
    def profile(self, action_name: str) -> AbstractContextManager[Any]:  # type: ignore[override]
        """Return the context of an action; while nothing is counted, one that costs nothing.

        Lightning enters some sixty of them in a step.
        """
        return _Action(self, action_name) if self.is_on else _NOTHING

    @contextmanager
    def within(self, part: Part) -> Iterator[None]:
        """Count what happens in here as a part."""
        if not self.is_on:
            yield
            return
        self._push(part)
        try:
            yield
        finally:
            self._pop()

    def watch_task(self, task: nn.Module) -> None:
        """Count a built task's towers and head as `forward`, its objective as `loss`.

        They are hooked while it counts; a hook would cost every other step something too.
        """
        self._watched = []
        for name, module in task.named_children():
            if isinstance(module, nn.ModuleDict):
                self._watched += [(inner, "forward") for inner in module.values()]
            else:
                self._watched.append((module, "loss" if name == "objective" else "forward"))

    def _watch(self, module: nn.Module, part: Part) -> None:
        # Modules within it may be another part.

        def enter(*_: Any) -> None:
            self._push(part)

        def leave(*_: Any) -> None:
            self._pop()

        self._hooks += [
            module.register_forward_pre_hook(enter),
            module.register_forward_hook(leave, always_call=True),
        ]

    @contextmanager
    def watch_collectives(self) -> Iterator[None]:
        """Count collectives that Python calls; DDP's own sums of gradients are not among them."""
        names = ("all_reduce", "all_gather_into_tensor", "reduce_scatter_tensor", "broadcast")
        places = [(dist, name) for name in names if hasattr(dist, name)] + [(comm, "shift")]
        before = [(module, name, getattr(module, name)) for module, name in places]

        def watched(name: str, collective: Callable[..., Any]) -> Callable[..., Any]:
            @wraps(collective)
            def call(*args: Any, **kwargs: Any) -> Any:
                if self.is_on and comm.is_distributed():
                    so_far = self.sent_bytes.get(name, 0.0)
                    self.sent_bytes[name] = so_far + _given_bytes(args)
                with self.within("communication"):
                    return collective(*args, **kwargs)

            return call

        for module, name, collective in before:
            setattr(module, name, watched(name, collective))
        try:
            yield
        finally:
            for module, name, collective in before:
                setattr(module, name, collective)

    def steps(self) -> list[dict[Part, float]]:
        """Return the seconds of each part in each finished step."""
        if self._is_cuda:
            torch.cuda.synchronize()
        found: list[dict[Part, float]] = []
        step: dict[Part, float] = dict.fromkeys(PARTS, 0.0)
        for (before, _), (now, part) in zip(self._marks, self._marks[1:], strict=False):
            step[part or "other"] += _between(before, now)
            if part is None:
                found.append(step)
                step = dict.fromkeys(PARTS, 0.0)
        return found

    def _push(self, part: Part) -> None:
        self._mark(self._stack[-1])
        self._stack.append(part)

    def _pop(self) -> None:
        if len(self._stack) > 1:  # an action that began before we did
            self._mark(self._stack.pop())

    def _mark(self, part: Part | None) -> None:
        if not self._is_cuda:
            self._marks.append((time.perf_counter(), part))
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._marks.append((event, part))


class _Action:
    """The context of an action; a generator's would cost a timed step a few times as much."""

    def __init__(self, parts: StepParts, name: str) -> None:
        self._parts, self._name = parts, name

    def __enter__(self) -> str:
        self._parts.start(self._name)
        return self._name

    def __exit__(self, *_: object) -> None:
        self._parts.stop(self._name)


def gradient_bytes(task: nn.Module, strategy: Any) -> float:
    """Return what DDP gives to its own sums of gradients in a step; 0 for other strategies.

    Args:
        task: the parameters that require gradients now are counted.
        strategy: the trainer's.
    """
    if not isinstance(strategy, DDPStrategy) or not comm.is_distributed():
        return 0.0
    trained = [p for p in task.parameters() if p.requires_grad]
    halved = getattr(strategy, "gradients", None) == "bfloat16"
    return sum(p.numel() * (2 if halved else p.element_size()) for p in trained)


def _given_bytes(args: tuple[Any, ...]) -> int:
    """Return the size of what a collective sends: all tensors of a list, else the last tensor."""
    lists = [a for a in args if isinstance(a, list | tuple)]
    tensors = [t for given in lists or [args] for t in given if isinstance(t, torch.Tensor)]
    return sum(t.nbytes for t in (tensors if lists else tensors[-1:]))


def _between(before: Any, now: Any) -> float:
    if isinstance(now, float):
        return now - float(before)
    return float(before.elapsed_time(now)) / 1000
