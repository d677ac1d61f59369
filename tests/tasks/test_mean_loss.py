import math

import torch
from ranks import run_ranks

from mmlight import comm
from mmlight.tasks.mean_loss import MeanLoss


def test_batches_weigh_by_their_samples_and_nothing_has_no_mean():
    losses = MeanLoss()
    assert losses.scores() == {}
    losses.add(torch.tensor(3.0), torch.tensor([True, True, True]))
    losses.add(torch.tensor(1.0), torch.tensor([True, False, False]))
    losses.add(torch.tensor(math.nan), torch.tensor([False, False, False]))
    assert losses.scores() == {"loss": 2.5}
    losses.add(torch.tensor(math.nan), torch.tensor([True]))
    assert math.isnan(losses.scores()["loss"])


def _on_rank() -> dict[str, float]:
    losses = MeanLoss()
    # The loss is of both ranks' samples; the second rank's last batch has none.
    losses.add(torch.tensor(4.0), torch.tensor([True, True]))
    losses.add(torch.tensor(1.0), torch.tensor([comm.rank() == 0, False]))
    return losses.scores()


def test_ranks_weigh_by_all_samples(tmp_path):
    for scores in run_ranks(_on_rank, world_size=2, folder=tmp_path):
        assert scores == {"loss": (4 * 4.0 + 1.0) / 5}
