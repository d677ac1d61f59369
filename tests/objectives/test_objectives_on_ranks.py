"""One process with the whole batch against several with their shares: value and gradients."""

from functools import cache

import pytest
import torch
import torch.distributed as dist
from contrastive_reference import make_batch
from ranks import count_sent, run_ranks
from torch import nn

from mmlight import comm
from mmlight.objectives.clip import Clip
from mmlight.objectives.siglip import SigLip

SIZE = 12
DIM = 3
MODALITIES = ("image", "text", "audio")
ALL = {m: [True] * SIZE for m in MODALITIES}
# No rank but the one of sample 7 has any audio.
SOME = {
    "image": [True, False, True, True, True, True] * 2,
    "text": [True, True, True, True, False, True] * 2,
    "audio": [i == 7 for i in range(SIZE)],
}
NO_AUDIO = SOME | {"audio": [False] * SIZE}
PRESENT = {"all": ALL, "some": SOME, "no_audio": NO_AUDIO}
CAPTION = [5, 6, 5, 8, 6, 5, 1, 1, 5, 2, 8, 3]
LABEL = [0, 1, -1, 1, -1, 0, 2, 1, 0, -1, 2, 1]
KINDS = {"clip": Clip, "siglip": SigLip}
# Sent: text and audio for all pairs, text alone for those with text.
PAIRS = {"every": None, "text": {"image-text": 1.0, "text-audio": 0.5}}
EVERY = (("sample", "all"), ("sample", "some"), ("sample", "no_audio"), ("caption", "some"))
CASES = [
    f"{kind}/{positives}/{present}/{ranks}/{pairs}"
    for kind in KINDS
    for ranks, pairs, data in (
        ("gather", "every", (*EVERY, ("label", "some"))),
        ("ring", "every", EVERY),
        ("gather", "text", (("sample", "all"), ("caption", "some"))),
        ("ring", "text", (("sample", "some"),)),
        ("local", "every", (("sample", "some"), ("label", "some"))),
    )
    for positives, present in data
]


def _case(name, share) -> dict[str, torch.Tensor]:
    """Return the loss and the gradients averaged over ranks, as DDP averages them."""
    kind, positives, present, ranks, pairs = name.split("/")
    torch.manual_seed(0)
    inputs = {m: torch.randn(SIZE, 4, dtype=torch.float64) for m in MODALITIES}
    towers = nn.ModuleDict({m: nn.Linear(4, DIM) for m in MODALITIES}).double()
    # Small tiles, so that a share has several.
    objective = KINDS[kind](positives=positives, pairs=PAIRS[pairs], ranks=ranks, tile=3)
    objective.build(MODALITIES)
    objective.double()
    batch = make_batch(present=PRESENT[present], caption=CAPTION, label=LABEL, rows=share)
    with count_sent() as sent:
        loss = objective(lambda m: towers[m](inputs[m][share]), batch)
        loss.value.backward()
    out = {"value": loss.value.detach(), **loss.logs}
    for parameter_name, parameter in [*towers.named_parameters(), *objective.named_parameters()]:
        assert parameter.grad is not None, parameter_name
        grad = comm.all_reduce_sum(parameter.grad) / comm.world_size()
        out[f"grad of {parameter_name}"] = grad
    return {"results": out, "sent": sent}


def _all_cases() -> dict[str, dict[str, torch.Tensor]]:
    assert comm.world_size() == 1 or dist.is_initialized()
    size = SIZE // comm.world_size()
    share = slice(comm.rank() * size, (comm.rank() + 1) * size)
    return {case: _case(case, share) for case in CASES}


@cache
def _alone(case) -> dict[str, torch.Tensor]:
    return _case(case, slice(None))["results"]


@pytest.fixture(scope="module", params=[2, 3, 4])
def ranks(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("objectives")
    return run_ranks(_all_cases, world_size=request.param, folder=folder)


@pytest.mark.parametrize("case", [c for c in CASES if "local" not in c])
def test_ranks_agree_with_one_process(ranks, case):
    alone = _alone(case)
    for rank in ranks:
        got = rank[case]["results"]
        assert set(got) == set(alone)
        for name, wanted in alone.items():
            torch.testing.assert_close(got[name], wanted, rtol=1e-12, atol=1e-12, msg=name)
        assert torch.equal(got["value"], ranks[0][case]["results"]["value"])


@pytest.mark.parametrize("case", [c for c in CASES if "local" in c])
def test_local_ranks_are_the_mean_of_their_shares(ranks, case):
    size = SIZE // len(ranks)
    shares = [_case(case, slice(i * size, (i + 1) * size))["results"] for i in range(len(ranks))]
    for rank, share in zip(ranks, shares, strict=True):
        assert rank[case]["sent"] == {}
        for name, got in rank[case]["results"].items():
            mean = torch.stack([s[name] for s in shares]).mean(0)
            wanted = mean if name.startswith("grad of") else share[name]
            torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12, msg=name)


def test_the_temperature_has_a_gradient_to_compare(ranks):
    for rank in ranks:
        clip = rank["clip/sample/all/gather/every"]["results"]
        siglip = rank["siglip/caption/some/ring/every"]["results"]
        assert (clip["grad of log_scale"].abs() > 1e-4).all()
        assert siglip["grad of bias"][0].abs() > 1e-4


@pytest.mark.parametrize(("pairs", "modalities"), [("every", 2), ("text", 1)])
@pytest.mark.parametrize("kind", KINDS)
def test_as_few_modalities_are_sent_as_the_pairs_allow(ranks, kind, pairs, modalities):
    others = len(ranks) - 1
    share_bytes = SIZE // len(ranks) * DIM * 8 * modalities
    for rank in ranks:
        sent = rank[f"{kind}/sample/all/gather/{pairs}"]["sent"]
        assert sent["gather float64"] == sent["reduce_scatter float64"] == others * share_bytes
        assert "shift float64" not in sent


def test_a_ring_gathers_no_features(ranks):
    for rank in ranks:
        for kind in KINDS:
            sent = rank[f"{kind}/sample/all/ring/every"]["sent"]
            assert sent["shift float64"] > 0
            assert not {"gather float64", "reduce_scatter float64"} & set(sent)
