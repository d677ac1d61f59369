"""CTC over several ranks against one process: value, counts and averaged gradients."""

import pytest
import torch
from ranks import run_ranks
from test_ctc import BLANK, example

from mmlight import comm
from mmlight.objectives.ctc import Ctc
from mmlight.text.symbols import Transcripts

SIZE = 4


def share() -> dict[str, torch.Tensor]:
    """The first clips of the example, one or two to a rank; the last one is impossible."""
    logits_BLK, frames_B, target, _ = example()
    size = SIZE // comm.world_size()
    rows = slice(comm.rank() * size, (comm.rank() + 1) * size)
    counted_B = torch.tensor([True, True, False, True])
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    loss = Ctc(blank=BLANK)(
        weight * logits_BLK.detach()[rows],
        frames_B[rows],
        Transcripts(target.symbol_BS[rows], target.length_B[rows]),
        counted_B=counted_B[rows],
    )
    loss.value.backward()
    return {
        "value": loss.value.detach(),
        "impossible": loss.logs["impossible"],
        "gradient": comm.all_reduce_sum(weight.grad) / comm.world_size(),
    }


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_agree_with_one_process(world_size, tmp_path):
    # With four ranks the third has nothing that counts, and the fourth only an impossible clip.
    alone = share()
    assert alone["impossible"] == 1 and alone["gradient"] != 0
    for rank in run_ranks(share, world_size=world_size, folder=tmp_path):
        for name, wanted in alone.items():
            torch.testing.assert_close(rank[name], wanted, rtol=1e-12, atol=1e-12, msg=name)
