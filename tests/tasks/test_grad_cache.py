"""Chunks of a contrastive batch: the same loss and gradients as the batch at once."""

from functools import partial

import pytest
import tiny
import torch
from ranks import run_ranks
from torch import nn

from mmlight import comm
from mmlight.encoders.timm_image import TimmImage
from mmlight.errors import UserError
from mmlight.tasks.grad_cache import encode_in_chunks

MODALITIES = ("image", "text", "audio")


def gradients(task, batch, *, chunk):
    task.zero_grad()
    torch.manual_seed(7)
    task.grad_cache = chunk
    value = task.loss(batch).value
    value.backward()
    return {n: p.grad.clone() for n, p in task.named_parameters() if p.grad is not None}, value


@pytest.mark.parametrize("chunk", [1, 2, 4, 5])
def test_chunks_give_the_gradients_of_the_batch(chunk):
    torch.manual_seed(0)
    task = tiny.task().double().eval()
    batch = tiny.batch()
    batch = batch.map(lambda t: t.double() if t.dtype == torch.float32 else t)
    wanted, loss = gradients(task, batch, chunk=None)
    found, value = gradients(task, batch, chunk=chunk)
    assert found.keys() == wanted.keys()
    torch.testing.assert_close(value, loss, rtol=0, atol=1e-12)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=0, atol=1e-12)


def test_second_pass_repeats_what_was_drawn_in_the_first():
    """Chunks kept and chunks recomputed draw the same dropout, one after the other."""
    torch.manual_seed(0)
    tower = nn.Sequential(nn.Linear(4, 32), nn.Dropout(0.5), nn.Linear(32, 3)).double()

    class Rows:
        size = 6

        def __init__(self, x):
            self.x = x

        def tensors(self):
            yield self.x

        def rows(self, start, stop):
            return self.x[start:stop]

    inputs = torch.randn(6, 4, dtype=torch.float64)
    torch.manual_seed(1)
    wanted_B3 = torch.cat([tower(inputs[i : i + 2]) for i in (0, 2, 4)])
    wanted = torch.autograd.grad(wanted_B3.square().sum(), tower[0].weight)[0]
    for keeps_last in (False, True):
        torch.manual_seed(1)
        found_B3 = encode_in_chunks(tower, Rows(inputs), size=2, keeps_last=keeps_last)
        torch.manual_seed(99)  # what others draw in between does not matter
        found = torch.autograd.grad(found_B3.square().sum(), tower[0].weight)[0]
        assert torch.equal(found_B3, wanted_B3)
        assert torch.equal(found, wanted)


def test_every_chunk_is_computed_twice_but_for_the_last_of_the_images():
    torch.manual_seed(0)
    task = tiny.task()
    calls = {name: [] for name in MODALITIES}
    for name in MODALITIES:
        task.tower(name).register_forward_pre_hook(lambda *_, name=name: calls[name].append(1))
    gradients(task, tiny.batch(), chunk=2)
    assert {name: len(made) for name, made in calls.items()} == {"image": 5, "text": 6, "audio": 6}


def test_batch_norms_count_each_chunk_once():
    kwargs = {"channels": (8, 8, 8, 8), "stem_width": 8}
    encoder = partial(TimmImage, "resnet10t", kwargs=kwargs)
    torch.manual_seed(0)
    task = tiny.task(towers=tiny.towers(encoder=encoder)).train()
    batch = tiny.batch()
    before = {k: v.clone() for k, v in task.state_dict().items()}
    with torch.no_grad():
        for start in range(0, 6, 2):
            task.tower("image")(batch.image.rows(start, start + 2))
    wanted = {
        name: value.clone()
        for name, value in task.tower("image").state_dict(prefix="towers.image.").items()
        if "running" in name
    }
    task.load_state_dict(before)
    gradients(task, batch, chunk=2)
    assert wanted
    for name, value in wanted.items():
        assert torch.equal(task.state_dict()[name], value), name


def _step() -> dict[str, torch.Tensor]:
    """Gradients after DDP's average, in four chunks, of this rank's half of the batch."""
    torch.manual_seed(0)
    task = tiny.task().double().eval()
    batch = tiny.batch(size=8).map(lambda t: t.double() if t.dtype == torch.float32 else t)
    share = 8 // comm.world_size()
    mine = slice(comm.rank() * share, (comm.rank() + 1) * share)
    batch = batch.map(lambda t: t[mine])
    task.grad_cache = share // 4

    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.task = task

        def forward(self, batch):
            return task.loss(batch).value

    step = Step() if comm.world_size() == 1 else nn.parallel.DistributedDataParallel(Step())
    step(batch).backward()
    return {n: p.grad for n, p in task.named_parameters()}


def test_two_ranks_in_chunks_equal_one_process(tmp_path):
    wanted = _step()
    for found in run_ranks(_step, world_size=2, folder=tmp_path):
        assert found.keys() == wanted.keys()
        for name in wanted:
            torch.testing.assert_close(found[name], wanted[name], rtol=0, atol=1e-12)


def test_chunk_must_hold_a_sample():
    with pytest.raises(UserError, match="grad_cache: 0 must be at least 1"):
        tiny.task(grad_cache=0)
