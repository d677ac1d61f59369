"""Several captions of a sample at once: all of them are its positives."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from contrastive_reference import make_batch
from ranks import run_ranks

from mmlight import comm
from mmlight.errors import UserError
from mmlight.objectives.clip import Clip
from mmlight.objectives.siglip import SigLip

SIZE, EACH, DIM = 4, 3, 5
HERE = {m: [True] * SIZE for m in ("image", "text", "audio")}
KINDS = {"clip": Clip, "siglip": SigLip}


def batch_of(rows=slice(None), *, label=None, present=HERE):
    batch = make_batch(present=present, label=label, rows=rows)
    text = batch.map(lambda t: t.repeat_interleave(EACH, 0)).text
    return replace(batch, text=text)


def features(rows=slice(None)):
    draws = torch.Generator().manual_seed(0)
    every = {
        name: torch.randn(SIZE * each, DIM, dtype=torch.float64, generator=draws)
        for name, each in (("image", 1), ("text", EACH), ("audio", 1))
    }
    wide = slice(*(n if n is None else EACH * n for n in (rows.start, rows.stop)))
    return {
        name: x[wide if name == "text" else rows].clone().requires_grad_()
        for name, x in every.items()
    }


def run(kind, *, rows=slice(None), ranks="gather", positives="sample", **batch):
    objective = KINDS[kind](ranks=ranks, positives=positives, tile=4)
    objective.build(("image", "text", "audio"))
    objective.double()
    given = features(rows)
    loss = objective(given.__getitem__, batch_of(rows, **batch))
    loss.value.backward()
    return {"value": loss.value.detach()} | {n: x.grad for n, x in given.items()} | loss.logs


def slow(kind):
    """Image to text and back, with every image once among the columns of captions."""
    given = features()
    image, text = (F.normalize(given[m], dim=1) for m in ("image", "text"))
    own_BN = torch.eye(SIZE, dtype=torch.float64).repeat_interleave(EACH, 1)
    if kind == "siglip":
        sign_BN = 2 * own_BN - 1
        return -F.logsigmoid(sign_BN * (10 * image @ text.T - 10)).sum() / SIZE
    logits_BN = image @ text.T / 0.07
    to_text = -(logits_BN.log_softmax(1) * own_BN).sum(1).mean() / EACH
    # Among the columns an image stands once for each of its captions.
    to_image = -(logits_BN.T.log_softmax(1) * own_BN.T).sum(1).mean() + math.log(EACH)
    return (to_text + to_image) / 2


@pytest.mark.parametrize("kind", KINDS)
def test_every_caption_is_a_positive(kind):
    found = run(kind)["loss/image-text"]
    torch.testing.assert_close(found, slow(kind).detach(), rtol=1e-7, atol=0)


def test_pairs_without_text_compare_samples():
    given = features()
    image, audio = (F.normalize(given[m], dim=1) for m in ("image", "audio"))
    logits_BB = image @ audio.T / 0.07
    target = torch.arange(SIZE)
    wanted = (F.cross_entropy(logits_BB, target) + F.cross_entropy(logits_BB.T, target)) / 2
    torch.testing.assert_close(run("clip")["loss/image-audio"], wanted.detach())


def test_captions_of_a_sample_without_a_label_belong_together():
    found = run("clip", positives="label", label=[-1, -1, 0, -1])
    torch.testing.assert_close(found["loss/image-text"], run("clip")["loss/image-text"])
    with pytest.raises(UserError, match="captions_per_sample above 1 do not go together"):
        run("clip", positives="caption")


def shares():
    size = SIZE // comm.world_size()
    rows = slice(comm.rank() * size, (comm.rank() + 1) * size)
    return {
        (kind, how): run(kind, rows=rows, ranks=how) for kind in KINDS for how in ("gather", "ring")
    }


def test_two_ranks_are_one_process(tmp_path):
    ranks = run_ranks(shares, world_size=2, folder=tmp_path)
    for kind in KINDS:
        alone = run(kind)
        for how in ("gather", "ring"):
            for name in ("image", "text", "audio"):
                whole = torch.cat([rank[kind, how][name] for rank in ranks]) / 2
                torch.testing.assert_close(whole, alone[name], rtol=1e-10, atol=1e-12, msg=name)
            for rank in ranks:
                torch.testing.assert_close(rank[kind, how]["value"], alone["value"])
