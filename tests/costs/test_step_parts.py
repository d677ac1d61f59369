"""What ranks send in a step, counted as bytes given to each kind of collective."""

import torch
from lightning.pytorch.strategies import FSDPStrategy
from ranks import run_ranks
from torch import nn

from mmlight import comm
from mmlight.costs.step_parts import StepParts, gradient_bytes
from mmlight.trainer.strategies import Ddp


def sent():
    parts = StepParts()
    x = torch.ones(4, 8)
    with parts.watch_collectives():
        comm.all_reduce_sum(x)  # before: not counted
        parts.begin(is_cuda=False)
        comm.gather(x)
        comm.shift([x, x[:1]])
        comm.shift([x])
        comm.all_reduce_sum(x)
        parts.start("run_training_batch")
        parts.stop("run_training_batch")
        parts.end()
        comm.gather(x)
    comm.gather(x)
    (step,) = parts.steps()
    task = nn.Linear(8, 4)
    half = gradient_bytes(task, Ddp(gradients="bfloat16"))
    ours = (half, gradient_bytes(task, Ddp()), gradient_bytes(task, FSDPStrategy()))
    return {
        "sent": parts.sent_bytes,
        "gradients": ours,
        "seconds": (step["communication"], step["forward"]),
    }


def test_bytes_by_collective_on_two_ranks(tmp_path):
    for found in run_ranks(sent, world_size=2, folder=tmp_path):
        given = {"all_gather_into_tensor": 128, "shift": 128 + 32 + 128, "all_reduce": 128}
        assert found["sent"] == given
        assert found["gradients"] == (2 * 36, 4 * 36, 0)
        assert found["seconds"][0] > 0 and found["seconds"][1] == 0


def test_alone_nothing_is_sent():
    found = sent()
    assert found["sent"] == {} and found["gradients"] == (0, 0, 0)


def test_modules_are_hooked_only_while_it_counts():
    task = nn.Module()
    task.towers = nn.ModuleDict({"image": nn.Linear(2, 2)})
    task.head, task.objective = nn.Linear(2, 2), nn.Linear(2, 2)
    modules = (task.towers["image"], task.head, task.objective)

    def hooked():
        return [bool(m._forward_pre_hooks or m._forward_hooks) for m in modules]

    parts = StepParts()
    parts.watch_task(task)
    assert hooked() == [False] * 3
    parts.begin(is_cuda=False)
    parts.begin(is_cuda=False)  # what was begun before is forgotten
    assert [len(m._forward_hooks) for m in modules] == [1, 1, 1]
    with parts.profile("run_training_batch"):
        for module in modules:
            module(torch.ones(1, 2))
    parts.end()
    assert hooked() == [False] * 3
    (step,) = parts.steps()
    assert step["forward"] > 0 and step["loss"] > 0
