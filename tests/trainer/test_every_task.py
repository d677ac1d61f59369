"""Each task on two ranks, averaged (DDP) or sharded (FSDP2), has the gradients of one process."""

from dataclasses import fields, replace

import pytest
import torch
from interop import every_task
from ranks import run_ranks
from tasks import tiny
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from mmlight import comm
from mmlight.batch import Boxes, Images, Text
from mmlight.text.saved_tokenizer import tokenizer_from_state
from mmlight.trainer.shard import shard

SIZE = 4
SINGLE = ("detection", "queries")  # torchvision's box losses know no float64
CASES = [(name, how) for name in every_task.EVERY for how in ("ddp", "fsdp")] + [
    ("contrastive", f"{how} {saving}")
    for how in ("ddp", "fsdp")
    for saving in ("chunks", "checkpointing")
]
ANSWERED = ("answering", "multimodal", "multimodal_memory")
WORDS = [["Anna", "saw", "Rome"], ["a", "cat"], ["two", "owls"], ["Bo", "in", "Oslo"]]
TAGS = [["O", "O", "B-place"], ["O", "O"], ["O", "O"], ["O", "O", "B-place"]]
SPOKEN = ["a b", "ab", "cab", "b"]


def whole_batch(name, task):
    """Four samples that this task learns from; the audio of the last two is missing."""
    batch = tiny.batch(SIZE, labels=torch.tensor([0, 2, 1, 0]))
    given = {
        "several_labels": {"labels": [[0], [1, 2], [], [0, 2]]},
        "attributes": {"what": ["small disc", "large star", None, "large ring"]},
    }
    batch = replace(batch, fields=given.get(name, {}))
    if name == "tagging":
        batch = replace(batch, fields={"words": WORDS, "tags": TAGS})
    written = {"transcription": SPOKEN}.get(name, [" ".join(words) for words in WORDS])
    settings = task.preprocessing["text"]
    if settings is not None:
        encoding = tokenizer_from_state(settings["tokenizer"]).encode_batch(
            written, max_tokens=settings["max_tokens"], offsets=name == "tagging"
        )
        offset = encoding.offsets_NL2
        rows, here = torch.arange(SIZE), torch.ones(SIZE, dtype=torch.bool)
        text = Text(
            torch.from_numpy(encoding.ids_NL),
            torch.from_numpy(encoding.mask_NL),
            here,
            rows,
            rows,
            offset_NL2=None if offset is None else torch.from_numpy(offset),
        )
        if name == "masked":
            # Every third token; the last text has none: means over ranks must weigh by tokens.
            counted_NL = text.mask_NL & (torch.arange(text.mask_NL.shape[1]) % 3 == 1)
            counted_NL[-1] = False
            hidden_NL = text.token_ids_NL.masked_fill(counted_NL, 3)
            text = replace(
                text, token_ids_NL=hidden_NL, target_NL=text.token_ids_NL, counted_NL=counted_NL
            )
        batch = replace(batch, text=text, captions=written)
        if name in ANSWERED:
            said = ["cat", "owl", "dog", "cat"]
            encoding = tokenizer_from_state(settings["tokenizer"]).encode_batch(said, max_tokens=9)
            ids, mask = torch.from_numpy(encoding.ids_NL), torch.from_numpy(encoding.mask_NL)
            answer = Text(ids, mask, here, rows, rows)
            batch = replace(batch, answer=answer, answers=said)
        if name == "preference":
            other = text.map(lambda t: t.flip(0))
            batch = replace(batch, answer=text, rejected=replace(other, item_N=rows))
    if name in ("detection", "queries"):
        draws = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (SIZE, 3, 64, 64), generator=draws, dtype=torch.uint8)
        here = torch.ones(SIZE, dtype=torch.bool)
        corner_BG2 = torch.randint(0, 30, (SIZE, 2, 2), generator=draws).float()
        boxes = Boxes(
            torch.cat([corner_BG2, corner_BG2 + 25], -1),
            torch.randint(0, 3, (SIZE, 2), generator=draws),
            torch.tensor([[True, True], [True, False], [False, False], [True, True]]),
            here,
        )
        batch = replace(batch, image=Images(pixels, here.clone()), boxes=boxes)
    if name in ("contrastive", "fusion", "multimodal"):
        here = torch.tensor([True, True, False, False])
        batch = replace(batch, audio=replace(batch.audio, present_B=here))
    if name in SINGLE:
        return batch
    return batch.map(lambda t: t.double() if t.dtype == torch.float32 else t)


def mine(batch):
    """Return this rank's share of the samples."""
    share = SIZE // comm.world_size()
    rows = slice(comm.rank() * share, (comm.rank() + 1) * share)
    cut = batch.map(lambda t: t[rows])
    lists = {
        f.name: getattr(batch, f.name)[rows]
        for f in fields(batch)
        if f.name in ("captions", "keys", "answers")
    }
    if cut.text is not None:
        text = replace(cut.text, item_N=torch.arange(share))
        lists["text"] = text
    if cut.answer is not None:
        lists["answer"] = replace(cut.answer, item_N=torch.arange(share))
    if cut.rejected is not None:
        lists["rejected"] = replace(cut.rejected, item_N=torch.arange(share))
    return replace(cut, **lists, fields={k: v[rows] for k, v in batch.fields.items()})


def step(name, how):
    """Return every gradient of one step, whole, after the strategy's average over ranks.

    `how` names the strategy and, after a blank, what saves memory.
    """
    how, _, saving = how.partition(" ")
    task = every_task.make(name)
    task = task if name in SINGLE else task.double()
    task.log_gated = lambda values: None
    task.trainer = None
    if saving == "chunks":
        task.grad_cache = 1
    if saving == "checkpointing":
        for modality in task.tower_settings.given():
            task.tower(modality).encoder.set_checkpointing(True)
    batch = mine(whole_batch(name, task))
    if how == "fsdp":
        shard(task, mesh=init_device_mesh("cpu", (comm.world_size(),)))
    if how == "ddp":
        unused = task.has_unused_parameters()
        task.forward = lambda batch: task.training_step(batch, 0)
        wrapped = DistributedDataParallel(task, find_unused_parameters=unused)
        wrapped(batch).backward()
    else:
        task.training_step(batch, 0).backward()
    grads = {n: p.grad for n, p in task.named_parameters() if p.grad is not None}
    return {n: g.full_tensor() if hasattr(g, "full_tensor") else g for n, g in grads.items()}


def every_step():
    return {f"{name} {how}: {n}": g for name, how in CASES for n, g in step(name, how).items()}


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def on_ranks(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    return run_ranks(every_step, world_size=request.param, folder=folder)


@pytest.mark.parametrize(("name", "how"), CASES)
def test_ranks_have_the_gradients_of_one_process(name, how, on_ranks):
    wanted = step(name, "one")
    assert wanted and any(g.abs().sum() > 0 for g in wanted.values())
    for found in on_ranks:
        prefix = f"{name} {how}: "
        ours = {k.removeprefix(prefix): g for k, g in found.items() if k.startswith(prefix)}
        assert ours.keys() >= wanted.keys()
        for key, gradient in ours.items():
            expected = wanted.get(key, torch.zeros_like(gradient))
            rtol, atol = (1e-3, 1e-5) if name in SINGLE else (1e-9, 1e-12)
            torch.testing.assert_close(gradient, expected, rtol=rtol, atol=atol, msg=key)
