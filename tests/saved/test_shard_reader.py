"""Checkpoints in parts are read without running what somebody put into them."""

import pickle

import pytest
import torch
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from mmlight.errors import UserError
from mmlight.saved.checkpoint import read_checkpoint
from mmlight.saved.locate import META
from mmlight.saved.parts import GivenPlanner, ShardReader

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def write(folder, state):
    save({"state_dict": state}, checkpoint_id=folder, no_dist=True)
    torch.save({"mmlight": {"task": {}, "preprocessing": None}}, folder / META)
    return folder


def test_tensors_and_plain_values_come_back(tmp_path):
    folder = write(tmp_path / "parts", {"a.weight": torch.arange(6.0).view(3, 2), "count": 3})
    read = read_checkpoint(folder)["state_dict"]
    assert torch.equal(read["a.weight"], torch.arange(6.0).view(3, 2))
    assert read["count"] == 3
    into = {"state_dict": {"a.weight": torch.zeros(3, 2), "count": 0}}
    load(into, storage_reader=ShardReader(folder), planner=GivenPlanner(), no_dist=True)
    assert torch.equal(into["state_dict"]["a.weight"], read["a.weight"])


def test_code_in_the_list_of_tensors_does_not_run(tmp_path):
    folder = write(tmp_path / "parts", {"a": torch.ones(2)})
    (folder / ".metadata").write_bytes(pickle.dumps(Touch(tmp_path / "ran")))
    with pytest.raises(UserError, match="nothing of it was run"):
        read_checkpoint(folder)
    assert not (tmp_path / "ran").exists()


def test_code_in_a_value_does_not_run(tmp_path):
    folder = write(tmp_path / "parts", {"a": torch.ones(2), "extra": Touch(tmp_path / "ran")})
    with pytest.raises(UserError, match="nothing of it was run"):
        read_checkpoint(folder)
    assert not (tmp_path / "ran").exists()
