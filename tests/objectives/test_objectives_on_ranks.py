"""One process with the whole batch against several with their shares: value and gradients."""

from itertools import product

import pytest
import torch
import torch.distributed as dist
from contrastive_reference import make_batch
from ranks import run_ranks
from torch import nn

from mmlight import comm
from mmlight.objectives.clip import Clip
from mmlight.objectives.siglip import SigLip

SIZE = 6
MODALITIES = ("image", "text", "audio")
ALL = {m: [True] * SIZE for m in MODALITIES}
# With two ranks rank 0 has no audio at all, with three ranks ranks 0 and 2.
SOME = {
    "image": [True, False, True, True, True, True],
    "text": [True, True, True, True, False, True],
    "audio": [False, False, False, True, False, False],
}
NO_AUDIO = SOME | {"audio": [False] * SIZE}
PRESENT = {"all": ALL, "some": SOME, "no_audio": NO_AUDIO}
CAPTION = [5, 6, 5, 8, 6, 5]
LABEL = [0, 1, -1, 1, -1, 0]
CASES = list(product(("clip", "siglip"), ("sample", "caption", "label"), PRESENT))


def _case(kind, positives, present) -> dict[str, torch.Tensor]:
    """Return the loss and the gradients averaged over ranks, as DDP averages them."""
    torch.manual_seed(0)
    inputs = {m: torch.randn(SIZE, 4, dtype=torch.float64) for m in MODALITIES}
    towers = nn.ModuleDict({m: nn.Linear(4, 3) for m in MODALITIES}).double()
    objective = {"clip": Clip, "siglip": SigLip}[kind](positives=positives)
    objective.build(MODALITIES)
    objective.double()
    share = SIZE // comm.world_size()
    rows = slice(comm.rank() * share, (comm.rank() + 1) * share)
    batch = make_batch(present=PRESENT[present], caption=CAPTION, label=LABEL, rows=rows)
    loss = objective(lambda m: towers[m](inputs[m][rows]), batch)
    loss.value.backward()
    out = {"value": loss.value.detach(), **loss.logs}
    for name, parameter in [*towers.named_parameters(), *objective.named_parameters()]:
        assert parameter.grad is not None, name
        out[f"grad of {name}"] = comm.all_reduce_sum(parameter.grad) / comm.world_size()
    return out


def _all_cases() -> dict[str, dict[str, torch.Tensor]]:
    assert comm.world_size() == 1 or dist.is_initialized()
    return {"/".join(case): _case(*case) for case in CASES}


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("objectives")
    return run_ranks(_all_cases, world_size=request.param, folder=folder)


@pytest.mark.parametrize("case", ["/".join(c) for c in CASES])
def test_ranks_agree_with_one_process(ranks, case):
    alone = _case(*case.split("/"))
    for rank in ranks:
        assert set(rank[case]) == set(alone)
        for name, wanted in alone.items():
            torch.testing.assert_close(rank[case][name], wanted, rtol=1e-12, atol=1e-12, msg=name)
        assert torch.equal(rank[case]["value"], ranks[0][case]["value"])


def test_the_temperature_has_a_gradient_to_compare(ranks):
    for rank in ranks:
        assert (rank["clip/sample/all"]["grad of log_scale"].abs() > 1e-4).all()
        assert (rank["siglip/caption/all"]["grad of bias"].abs() > 1e-4).all()
